"""Deleting a project for good, and the certificates of what was erased."""

import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import TypedDict, cast

from hortus.client.errors import HortusError, Refused
from hortus.client.shapes import Erasure, Project
from hortus.client.wire import Wire

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 2.0


class ListedErasure(TypedDict):
    """A project's deletion: its certificate once ``state`` is ``deleted``, and before that for which services it waits."""

    project_id: str
    asked_by: str
    asked_at: str
    state: str
    awaited: list[str]
    erased_at: str | None
    sha256: str | None
    document: str | None


class Erasures:
    """Deletions of projects, from the request to the certificate."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def ask(self, project_id: str, name: str) -> Project:
        """Delete a project for good; ``name`` repeats its name. Every service erases what it holds of it, which takes a while."""
        return cast("Project", self._wire.call("POST", f"/projects/{project_id}/deletion", {"name": name}))

    def get(self, project_id: str) -> Erasure:
        """The certificate of erasure of a deleted project; 404 until it is deleted, and for who did not own it."""
        return cast("Erasure", self._wire.call("GET", f"/erasure-certificates/{project_id}"))

    def list(self) -> Iterator[ListedErasure]:
        """The certificates of projects that the caller owned or deleted; for administrators and auditors all, and the deletions under way."""
        yield from self._wire.pages("/erasure-certificates")

    def wait(self, project_id: str, *, seconds: float = 600.0, changed: Callable[[Project], None] = lambda _: None) -> Erasure:
        """Ask until the project is deleted; ``changed`` hears of every step of a service."""
        end = time.monotonic() + seconds
        seen = None
        pause = FIRST_PAUSE_S
        while True:
            project = self._still_there(project_id)
            if project is None:
                return self.get(project_id)
            step = (project["state"], project.get("deletion"))
            if step != seen:
                seen = step
                changed(project)
            if time.monotonic() > end:
                raise HortusError(
                    f"The project is still {project['state']} after {seconds:.0f} s; the deletion goes on, and nobody watches."
                )
            time.sleep(pause)
            pause = min(pause * 1.2, LONGEST_PAUSE_S)

    def _still_there(self, project_id: str) -> Project | None:
        try:
            return cast("Project", self._wire.call("GET", f"/projects/{project_id}"))
        except Refused as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise
            return None
