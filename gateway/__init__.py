"""The only door from outside: it authenticates, decides, records and forwards."""
