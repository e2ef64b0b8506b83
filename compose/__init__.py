"""How Hortus is run: the local runner, and the recipe for containers."""
