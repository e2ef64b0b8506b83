"""What ca is asked for."""

from dataclasses import dataclass
from uuid import UUID

from chassis.csr import Request


@dataclass(frozen=True)
class Order:
    """A person's order of a certificate for a project."""

    project_id: UUID
    request: Request
