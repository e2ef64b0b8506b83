"""All the SQL of datasets, by what it is about. What a project reads is read under the project; nothing else of it is seen."""

from services.datasets.repository import datasets, deletion, files, heard, runs, shares

__all__ = ["datasets", "deletion", "files", "heard", "runs", "shares"]
