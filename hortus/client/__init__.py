"""The client library: every door that a person uses, over one checked connection.

    with Client("https://localhost:8443", trust="root.pem") as client:
        client.sessions.create("ada", password, code)
        for project in client.projects.list(): ...

A sign-in is renewed by itself for as long as the session may last. Programs that act without their person show an API key
(``Client.from_environment()``) or a project certificate (PEM files of chain and key, for the certificate port).
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from hortus.client.administration import Groups, SigningKeys
from hortus.client.audit import Audit, SourceCheck, check_records
from hortus.client.credentials import ApiKeys
from hortus.client.datasets import Datasets, inside
from hortus.client.erasures import Erasures
from hortus.client.errors import Altered, FactorTooOld, HortusError, Refused, Unreachable
from hortus.client.factors import Factors
from hortus.client.folder import About, Folder
from hortus.client.jobs import ENDED, Agents, Jobs
from hortus.client.keys import new_key, write_private
from hortus.client.membership import BreakGlasses, Feed, ProjectInvitations
from hortus.client.memory import FileMemory, Memory
from hortus.client.people import Enrolments, Invitations, Passwords, Registrations, Users
from hortus.client.projects import Certificates, GroupRoles, Members, Projects
from hortus.client.sessions import Sessions
from hortus.client.shapes import Hit
from hortus.client.signin import FileKeeper, Keeper, SignIn
from hortus.client.wire import Shown, Wire


class Client:
    """A connection to Hortus, for one person (or nobody yet).

    ``token``: an access token or an API key. ``refresh``: where the sign-in is kept and renewed, shared with whoever has the same
    one. ``factor``: asked for what is shown (``{"code": "123456"}``) when a door wants a fresh second factor; without it
    that door raises FactorTooOld.
    """

    def __init__(
        self,
        address: str,
        trust: Path | str,
        *,
        token: str | None = None,
        certificate: tuple[Path, Path] | None = None,
        refresh: Keeper | None = None,
        factor: Callable[[], Shown] | None = None,
        memory: Memory | None = None,
        timeout: float = 30.0,
        patience: float = 15.0,
        attempts: int = 4,
    ) -> None:
        self.wire = Wire(
            address,
            trust,
            token=token,
            certificate=certificate,
            refresh=refresh,
            factor=factor,
            memory=memory,
            timeout=timeout,
            patience=patience,
            attempts=attempts,
        )
        self.invitations = Invitations(self.wire)
        self.enrolments = Enrolments(self.wire)
        self.registrations = Registrations(self.wire)
        self.passwords = Passwords(self.wire)
        self.sessions = Sessions(self.wire)
        self.factors = Factors(self.wire)
        self.keys = ApiKeys(self.wire)
        self.users = Users(self.wire)
        self.groups = Groups(self.wire)
        self.signing_keys = SigningKeys(self.wire)
        self.projects = Projects(self.wire)
        self.erasures = Erasures(self.wire)
        self.members = Members(self.wire)
        self.project_invitations = ProjectInvitations(self.wire)
        self.break_glass = BreakGlasses(self.wire)
        self.activity = Feed(self.wire)
        self.group_roles = GroupRoles(self.wire)
        self.certificates = Certificates(self.wire)
        self.datasets = Datasets(self.wire)
        self.jobs = Jobs(self.wire)
        self.agents = Agents(self.wire)
        self.audit = Audit(self.wire)

    @classmethod
    def from_environment(cls) -> Self:
        """A client for a program: ``HORTUS_ADDRESS``, ``HORTUS_ROOT`` (PEM file of the root) and ``HORTUS_API_KEY``."""
        names = ("HORTUS_ADDRESS", "HORTUS_ROOT", "HORTUS_API_KEY")
        address, root, key = (os.environ.get(name, "") for name in names)
        missing = [name for name in names if not os.environ.get(name)]
        if missing:
            raise HortusError(f"The environment does not name {' and '.join(missing)}.")
        return cls(address, root, token=key)

    def search(
        self, words: str, *, kind: Literal["datasets", "jobs"] | None = None, project_id: str | None = None, most: int | None = None
    ) -> Iterator[Hit]:
        """Datasets and jobs found by their words, among what the caller may know of."""
        yield from self.wire.pages("/search", {"q": words, "kind": kind, "project_id": project_id}, most)

    def close(self) -> None:
        """Close the connection."""
        self.wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


__all__ = [
    "ENDED",
    "About",
    "Altered",
    "Client",
    "FactorTooOld",
    "FileKeeper",
    "FileMemory",
    "Folder",
    "HortusError",
    "Keeper",
    "Memory",
    "Refused",
    "SignIn",
    "SourceCheck",
    "Unreachable",
    "check_records",
    "inside",
    "new_key",
    "write_private",
]
