"""The use cases of ca, by what they are about: issue, end, renew for services, say what is revoked, and follow what other services say."""

from services.ca.service import care, deletion, ending, enrolment, issuing, office, parties, status

__all__ = ["care", "deletion", "ending", "enrolment", "issuing", "office", "parties", "status"]
