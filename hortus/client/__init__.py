"""The client library: every door that a person uses, over one checked connection.

    with Client("https://localhost:8443", trust="root.pem") as client:
        client.sessions.create("ada", password, code)
        for project in client.projects.list(): ...

``token`` or ``certificate`` (PEM files of chain and key, for the certificate port) say who is asking.
"""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from hortus.client.audit import Audit, SourceCheck, check_records
from hortus.client.datasets import Datasets, inside
from hortus.client.errors import Altered, HortusError, Refused, Unreachable
from hortus.client.jobs import ENDED, Agents, Jobs
from hortus.client.keys import new_key, write_private
from hortus.client.memory import FileMemory, Memory
from hortus.client.people import Invitations, Sessions, Users
from hortus.client.projects import Certificates, Members, Projects
from hortus.client.shapes import Hit
from hortus.client.wire import Wire


class Client:
    """A connection to Hortus, for one person (or nobody yet); one thread at a time."""

    def __init__(
        self,
        address: str,
        trust: Path | str,
        *,
        token: str | None = None,
        certificate: tuple[Path, Path] | None = None,
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
            memory=memory,
            timeout=timeout,
            patience=patience,
            attempts=attempts,
        )
        self.invitations = Invitations(self.wire)
        self.sessions = Sessions(self.wire)
        self.users = Users(self.wire)
        self.projects = Projects(self.wire)
        self.members = Members(self.wire)
        self.certificates = Certificates(self.wire)
        self.datasets = Datasets(self.wire)
        self.jobs = Jobs(self.wire)
        self.agents = Agents(self.wire)
        self.audit = Audit(self.wire)

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
    "Altered",
    "Client",
    "FileMemory",
    "HortusError",
    "Memory",
    "Refused",
    "SourceCheck",
    "Unreachable",
    "check_records",
    "inside",
    "new_key",
    "write_private",
]
