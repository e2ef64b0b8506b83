"""Device cookies: they say that somebody signed in on a device before, so that only its own failures count there."""

import json
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.auth import vault
from services.auth.vault import DEVICE_S, Vault

PURPOSE = "device"
NONCE_BYTES = 16


@dataclass(frozen=True)
class Device:
    """Whose device it is, what its failures count under, and, blind, the name for them that only their directory knew when they typed it there."""

    user_id: UUID
    nonce: str
    login: bytes | None


def cookie(safe: Vault, user_id: UUID, now: datetime, login: bytes | None = None) -> str:
    """A new device cookie, with a count of its own."""
    said = {
        "user": user_id.hex,
        "nonce": vault.random_bytes(NONCE_BYTES).hex(),
        "login": login.hex() if login is not None else None,
        "at": now.timestamp(),
    }
    return safe.carry(PURPOSE, json.dumps(said).encode())


def device(safe: Vault, shown: str | None, now: datetime) -> Device | None:
    """What a device cookie says, when it was made here and is not older than its time."""
    carried = safe.carried(PURPOSE, shown) if shown else None
    if carried is None:
        return None
    said = json.loads(carried)
    if now.timestamp() - said["at"] > DEVICE_S:
        return None
    return Device(UUID(said["user"]), said["nonce"], bytes.fromhex(said["login"]) if said["login"] else None)


def renewed(safe: Vault, shown: str | None, user_id: UUID, now: datetime, login: str | None) -> str:
    """The cookie of somebody who signs in; ``login``: what they typed, where only the directory knew whose name it is.

    Such a name leads to no account here before the directory is asked, and patience comes first: so the cookie tells which name was
    theirs, also after they signed in another way. By the account alone, everybody could guess at others on their own cookies.
    """
    before = device(safe, shown, now)
    kept = before.login if before is not None and before.user_id == user_id else None
    return cookie(safe, user_id, now, safe.blind(login) if login is not None else kept)
