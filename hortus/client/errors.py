"""What can go wrong for a client, each with one sentence for a person."""

from collections.abc import Mapping
from typing import Any


class HortusError(Exception):
    """Something that the caller can be told in one sentence: ``str(error)``."""


class Refused(HortusError):
    """The other side answered with a problem (RFC 9457).

    ``status``: the HTTP status; ``slug``: the stable name at the end of ``urn:hortus:problem:<slug>``; ``title`` and
    ``detail``: sentences for people (``detail`` may be empty); ``members``: what else the problem says, by name;
    ``retry_after``: the seconds after which asking again is welcome.
    """

    def __init__(
        self,
        status: int,
        slug: str,
        title: str,
        detail: str = "",
        *,
        members: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status = status
        self.slug = slug
        self.title = title
        self.detail = detail
        self.members = members or {}
        self.retry_after = retry_after
        super().__init__(_sentence(status, title, detail))


class FactorTooOld(Refused):
    """The door asks for a second factor that was shown less than 5 minutes ago: ``sessions.step_up``, then again."""


class Unreachable(HortusError):
    """No answer came: no connection, a broken one, or a certificate that the root does not vouch for."""


class Altered(HortusError):
    """Bytes or an answer are not what was announced: a wrong hash, a wrong length, an answer that is no JSON."""


def _sentence(status: int, title: str, detail: str) -> str:
    said = detail or title or f"The answer was {status}"
    if detail and title and title.lower().rstrip(".") not in detail.lower():
        said = f"{title.rstrip('.')}: {detail}"
    return said if said.endswith((".", "!", "?")) else said + "."
