"""The sign-in kept on this machine: one file that only its owner can read, or an API key in the environment."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from hortus.client import Client, FileKeeper, FileMemory, Folder, HortusError, Keeper, Memory, SignIn
from hortus.client.wire import Shown

CERTIFICATE_PORT = 8444
API_KEY = "HORTUS_API_KEY"


class NotSignedIn(HortusError):
    """There is no sign-in on this machine."""


def place() -> Path:
    """The file: ``HORTUS_CONFIG``, else ``hortus/sign-in.json`` in the user's configuration folder (XDG)."""
    named = os.environ.get("HORTUS_CONFIG")
    if named:
        return Path(named)
    folder = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(folder) / "hortus" / "sign-in.json"


def keeper() -> FileKeeper:
    """What reads and writes the file."""
    return FileKeeper(place())


def load() -> SignIn:
    """What is kept, or an empty sign-in."""
    return keeper().read()


def save(sign_in: SignIn) -> None:
    """Keep it."""
    kept = keeper()
    with kept.alone():
        kept.write(sign_in)


def know(place_of: SignIn, username: str) -> None:
    """Keep the place and the name for the first sign-in of somebody who joined; who is signed in here stays that."""
    kept = keeper()
    with kept.alone() as sign_in:
        if not sign_in.token:
            kept.write(replace(place_of.ended(), username=username))


def forget() -> None:
    """Keep address, root, name and device, forget the session."""
    kept = keeper()
    with kept.alone() as sign_in:
        kept.write(sign_in.ended())
    _facts().unlink(missing_ok=True)


def settle(address: str | None = None, trust: Path | None = None) -> SignIn:
    """Where Hortus is and which root to trust: what is given now, else what is kept."""
    kept = load()
    if address and address.rstrip("/") != kept.address:
        # Another Hortus than before: nothing of what was kept is for it.
        kept = SignIn(address=address.rstrip("/"), trust=kept.trust)
    if trust is not None:
        try:
            kept = replace(kept, trust=trust.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise HortusError(f"The root certificate {trust} cannot be read.") from error
    if not kept.address:
        raise HortusError("Say where Hortus is: --address https://… (or HORTUS_ADDRESS).")
    if not kept.trust:
        raise HortusError("Say which root certificate to trust: --trust root.pem (or HORTUS_ROOT).")
    return kept


@contextmanager
def anonymous(kept: SignIn) -> Iterator[Client]:
    """A client that shows no credential; who signs in with it is kept with ``enter``."""
    with Client(kept.address, kept.trust, refresh=Keeper(kept.ended())) as made:
        yield made


@contextmanager
def entering(kept: SignIn) -> Iterator[Client]:
    """A client to sign in with. At the end of the block the sign-in is kept, and nothing is when it failed."""
    held = Keeper(kept.ended())
    with Client(kept.address, kept.trust, refresh=held) as made:
        yield made
    save(held.read())


def client(certificate: Path | None = None, factor: Callable[[], Shown] | None = None) -> Client:
    """A client for who is signed in, for the API key in the environment, or for the certificate in a folder of ``certificate create``."""
    if certificate is not None:
        kept = load()
        if not kept.address or not kept.trust:
            raise NotSignedIn("This machine knows no Hortus yet: run `hortus login`.")
        pair = Folder(certificate).pair
        address = os.environ.get("HORTUS_CERTIFICATE_ADDRESS") or kept.certificate_address or _beside(kept.address)
        return Client(address, kept.trust, certificate=pair, memory=_memory(kept.session_id))
    key = os.environ.get(API_KEY)
    if key:
        root = os.environ.get("HORTUS_ROOT")
        kept = settle(os.environ.get("HORTUS_ADDRESS"), Path(root) if root else None)
        return Client(kept.address, kept.trust, token=key, memory=_memory(key.rpartition("_")[0]))
    return own(factor)


def held() -> SignIn:
    """The sign-in that is kept. Raises NotSignedIn where there is none."""
    kept = load()
    if not kept.token:
        raise NotSignedIn("You are not signed in: run `hortus login`.")
    return kept


def own(factor: Callable[[], Shown] | None = None) -> Client:
    """A client for who is signed in. ``factor`` is asked for a second factor where a door wants a fresh one."""
    kept = held()
    return Client(kept.address, kept.trust, refresh=keeper(), factor=factor, memory=_memory(kept.session_id))


def _memory(sign_in: str) -> Memory:
    place().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return FileMemory(_facts(), sign_in)


def _facts() -> Path:
    path = place()
    return path.with_name(path.name + ".facts")


def _beside(address: str) -> str:
    host = urlsplit(address).hostname or "localhost"
    return f"https://{f'[{host}]' if ':' in host else host}:{CERTIFICATE_PORT}"
