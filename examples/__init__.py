"""Things to run on Hortus."""
