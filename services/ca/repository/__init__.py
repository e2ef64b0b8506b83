"""All the SQL of ca. Rows that an issuing rests on are locked in one order: project, person, membership, run, certificates."""

from services.ca.repository import certificates, deletion, enrolment, issuing, parties, revocation
from services.ca.repository.reading import Engine

__all__ = ["Engine", "certificates", "deletion", "enrolment", "issuing", "parties", "revocation"]
