"""The use cases of projects, by what they are about: each function is one transaction's work."""
