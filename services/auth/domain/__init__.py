"""The rules of auth, by what they are about: pure, with time, ids and secrets passed in."""

from services.auth.domain import accounts, factors, groups, keys, letters, links, passkeys, patience, sessions, signing

__all__ = ["accounts", "factors", "groups", "keys", "letters", "links", "passkeys", "patience", "sessions", "signing"]
