"""The sign-in kept on this machine: one file that only its owner can read."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hortus.client import Client, FileMemory, HortusError, write_private

CERTIFICATE_PORT = 8444
CHAIN_FILE = "certificate.pem"
KEY_FILE = "key.pem"


class NotSignedIn(HortusError):
    """There is no sign-in on this machine."""


@dataclass
class SignIn:
    """Where Hortus is, which root is trusted (PEM text), and who is signed in. Times are RFC 3339."""

    address: str = ""
    trust: str = ""
    certificate_address: str = ""
    username: str = ""
    session_id: str = ""
    token: str = ""
    token_expires_at: str = ""
    session_expires_at: str = ""


def place() -> Path:
    """The file: ``HORTUS_CONFIG``, else ``hortus/sign-in.json`` in the user's configuration folder (XDG)."""
    named = os.environ.get("HORTUS_CONFIG")
    if named:
        return Path(named)
    folder = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(folder) / "hortus" / "sign-in.json"


def load() -> SignIn:
    """What is kept, or an empty sign-in. A file that others could read is an error."""
    path = place()
    try:
        mode = path.stat().st_mode
        text = path.read_text()
    except FileNotFoundError:
        return SignIn()
    except OSError as error:
        raise HortusError(f"{path} cannot be read: {error.strerror}.") from error
    if mode & 0o077:
        raise HortusError(f"Others can read {path}, which holds your sign-in: run `chmod 600 {path}`, then sign in anew.")
    try:
        kept = json.loads(text)
        return SignIn(**{name: str(kept.get(name, "")) for name in asdict(SignIn())})
    except (ValueError, AttributeError) as error:
        raise HortusError(f"{path} is damaged: remove it and sign in again.") from error


def save(sign_in: SignIn) -> None:
    """Keep it (0600)."""
    write_private(place(), json.dumps(asdict(sign_in), indent=1).encode())


def forget() -> None:
    """Keep address and root, forget who was signed in."""
    kept = load()
    save(SignIn(address=kept.address, trust=kept.trust, certificate_address=kept.certificate_address))
    _facts().unlink(missing_ok=True)


def settle(address: str | None, trust: Path | None) -> SignIn:
    """The address and root to use: what is given now, else what is kept."""
    kept = load()
    if address:
        kept.address = address.rstrip("/")
    if trust is not None:
        try:
            kept.trust = trust.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise HortusError(f"The root certificate {trust} cannot be read.") from error
    if not kept.address:
        raise HortusError("Say where Hortus is: --address https://… (or HORTUS_ADDRESS).")
    if not kept.trust:
        raise HortusError("Say which root certificate to trust: --trust root.pem (or HORTUS_ROOT).")
    return kept


def anonymous(sign_in: SignIn) -> Client:
    """A client that shows no credential."""
    return Client(sign_in.address, sign_in.trust)


def client(certificate: Path | None = None) -> Client:
    """A client for who is signed in, or, with a folder of ``certificate create``, one that shows that certificate."""
    kept = load()
    if certificate is not None:
        if not kept.address or not kept.trust:
            raise NotSignedIn("This machine knows no Hortus yet: run `hortus login`.")
        pair = (certificate / CHAIN_FILE, certificate / KEY_FILE)
        address = os.environ.get("HORTUS_CERTIFICATE_ADDRESS") or kept.certificate_address or _beside(kept.address)
        return Client(address, kept.trust, certificate=pair, memory=FileMemory(_facts(), kept.session_id))
    if not kept.token:
        raise NotSignedIn("You are not signed in: run `hortus login`.")
    return Client(kept.address, kept.trust, token=kept.token, memory=FileMemory(_facts(), kept.session_id))


def _facts() -> Path:
    path = place()
    return path.with_name(path.name + ".facts")


def _beside(address: str) -> str:
    host = urlsplit(address).hostname or "localhost"
    return f"https://{f'[{host}]' if ':' in host else host}:{CERTIFICATE_PORT}"
