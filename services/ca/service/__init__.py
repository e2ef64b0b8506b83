"""The use cases of ca, by what they are about: issue, end, say what is revoked, and follow what other services say."""

from services.ca.service import care, ending, issuing, office, parties, status

__all__ = ["care", "ending", "issuing", "office", "parties", "status"]
