"""Where bytes lie and what opens them."""

from dataclasses import dataclass
from typing import Any

from chassis.outbox import unit_of_work
from contracts.roles import Actor
from services.datasets import vault
from services.datasets.blobs import Blobs
from services.datasets.flights import Flights


@dataclass(frozen=True)
class Limits:
    """What a run may leave, in bytes and files."""

    staging_bytes: int
    staging_files: int


@dataclass
class Storage:
    """Where bytes lie and what opens them. ``engine`` gives short transactions to doors that stream."""

    engine: Any
    master: vault.MasterKey
    blobs: Blobs
    limits: Limits
    flights: Flights

    def look(self, actor: Actor, action: str) -> Any:
        """A short unit of work beside a stream."""
        return unit_of_work(self.engine, "datasets", action, actor)
