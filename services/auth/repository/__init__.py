"""All the SQL of auth, by what it is about."""

from services.auth.repository import accounts, factors, groups, keys, letters, links, passkeys, patience, sessions, signing, spent
from services.auth.repository.reading import Engine, clock, reading

__all__ = [
    "Engine",
    "accounts",
    "clock",
    "factors",
    "groups",
    "keys",
    "letters",
    "links",
    "passkeys",
    "patience",
    "reading",
    "sessions",
    "signing",
    "spent",
]
