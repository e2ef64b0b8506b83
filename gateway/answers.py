"""What an answer carries to the outside: the headers that pass, those that the gateway adds, what is told instead, and its own pages."""

from collections.abc import Callable
from dataclasses import dataclass

from chassis.errors import Problem
from gateway.browser import is_own_cookie
from gateway.connection import Headers

_CACHE = b"cache-control"
_NO_STORE = b"no-store"
_ALWAYS: Headers = [(b"strict-transport-security", b"max-age=63072000"), (b"x-content-type-options", b"nosniff")]
SAFETY: Headers = [*_ALWAYS, (_CACHE, _NO_STORE)]
_NOT_HANDED_OUT = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"date", b"server"}
    | {b"hortus-identity"}
    | {name for name, _ in SAFETY}
)
_FACTS = b"hortus-facts"
_REASON = b"hortus-reason"
_SET_COOKIE = b"set-cookie"


class AnswerHeldBack(Problem):
    """A change was made, and then it was not known for a moment who may be told of it."""

    status = 503
    title = "It was done; its answer cannot be shown at this moment"


@dataclass(frozen=True)
class Page:
    """Something that the gateway answers itself, to everybody.

    ``body`` is asked for each answer. ``known``: it shows what the projection knows, and is shown only while that is fresh.
    ``cache`` says who may keep it. ``location``: no page, but where browsers go on to; they take the fragment along.
    """

    action: str
    media_type: bytes
    body: Callable[[], bytes]
    known: bool = False
    cache: bytes = _NO_STORE
    location: bytes | None = None

    @property
    def status(self) -> int:
        """The status of the answer."""
        return 200 if self.location is None else 303

    def headers(self, length: int) -> Headers:
        """The headers of an answer whose body has ``length`` bytes."""
        there = [] if self.location is None else [(b"location", self.location)]
        return [(b"content-type", self.media_type), (b"content-length", b"%d" % length), *there, *_ALWAYS, (_CACHE, self.cache)]


def handed_out(received: Headers, *, cookies: bool, cacheable: bool) -> tuple[Headers, bytes | None, str | None]:
    """The headers of a service's answer that the client gets, and what ``Hortus-Facts`` and ``Hortus-Reason`` say.

    ``cookies``: the door may set Hortus's own ones. ``cacheable``: the service may let its answer be kept.
    """
    headers: Headers = []
    facts: bytes | None = None
    reason: str | None = None
    kept = _NO_STORE
    for header in received:
        name = header[0]
        if name == _CACHE and cacheable:
            kept = header[1]
        if name in _NOT_HANDED_OUT or (name == _SET_COOKIE and not (cookies and is_own_cookie(header[1]))):
            continue
        if name == _FACTS:
            facts = header[1]
        elif name == _REASON:
            reason = header[1].decode("latin-1")
        headers.append(header)
    headers += [*_ALWAYS, (_CACHE, kept)]
    return headers, facts, reason
