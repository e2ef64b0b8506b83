"""The services of Hortus: seven programs that share contracts and chassis and meet in events."""
