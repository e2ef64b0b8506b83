"""The use cases of ca, by what they are about: issue, end, say what is revoked, and follow what other services say."""

from services.ca.service import care, deletion, ending, issuing, office, parties, status

__all__ = ["care", "deletion", "ending", "issuing", "office", "parties", "status"]
