"""All the SQL of auth, by what it is about."""

from services.auth.repository import (
    accounts,
    client_codes,
    directory,
    factors,
    groups,
    keys,
    letters,
    links,
    oidc,
    passkeys,
    patience,
    registrations,
    sessions,
    sign_ins,
    signing,
    spent,
)
from services.auth.repository.reading import Engine, Reading, clock, reading

__all__ = [
    "Engine",
    "Reading",
    "accounts",
    "client_codes",
    "clock",
    "directory",
    "factors",
    "groups",
    "keys",
    "letters",
    "links",
    "oidc",
    "passkeys",
    "patience",
    "reading",
    "registrations",
    "sessions",
    "sign_ins",
    "signing",
    "spent",
]
