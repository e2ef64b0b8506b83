"""Datasets: files in projects, encrypted at rest, shared without a copy, with their origins on them."""
