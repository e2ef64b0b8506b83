"""The use cases of datasets, by what they are about: each function is one transaction"s work, or one stream"s."""

from services.datasets.service import datasets, deletion, downloads, heard, keys, known, runs, shares, storage, sweep, transfers, uploads

__all__ = ["datasets", "deletion", "downloads", "heard", "keys", "known", "runs", "shares", "storage", "sweep", "transfers", "uploads"]
