"""``python -m gateway``: the only door from outside."""

from gateway.app import main

if __name__ == "__main__":
    main()
