"""The rules of auth, by what they are about: pure, with time, ids and secrets passed in."""

from services.auth.domain import (
    accounts,
    client_codes,
    directory,
    factors,
    flows,
    groups,
    keys,
    letters,
    links,
    oidc,
    passkeys,
    passwords,
    patience,
    registrations,
    sessions,
    signing,
)

__all__ = [
    "accounts",
    "client_codes",
    "directory",
    "factors",
    "flows",
    "groups",
    "keys",
    "letters",
    "links",
    "oidc",
    "passkeys",
    "passwords",
    "patience",
    "registrations",
    "sessions",
    "signing",
]
