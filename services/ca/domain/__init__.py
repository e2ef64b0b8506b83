"""The rules of ca, by what they are about: pure, with the time, serial numbers and ids passed in."""

from services.ca.domain import certificates, enrolment, holders, parties, profiles, requests, revocation

__all__ = ["certificates", "enrolment", "holders", "parties", "profiles", "requests", "revocation"]
