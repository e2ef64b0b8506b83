"""The use cases of auth, by what they are about: each function is one transaction's work."""
