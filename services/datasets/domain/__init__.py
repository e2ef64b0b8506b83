"""The rules of datasets, by what they are about: pure, with the time and the ids passed in."""

from services.datasets.domain import datasets, files, names, origins, runs, shares

__all__ = ["datasets", "files", "names", "origins", "runs", "shares"]
