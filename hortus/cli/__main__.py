"""``python -m hortus.cli``: the command where its script is not installed."""

from hortus.cli import main

main()
