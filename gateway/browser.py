"""What browsers do by themselves: they send cookies along, and they ask on behalf of any page that people have open.

So a cookie passes on the doors that need one, and a change that a page of another origin asks for is refused. Programs send
no ``Origin`` and are not concerned.
"""

import re
from collections.abc import Iterable

from chassis.errors import Forbidden
from gateway.request import COOKIE, FETCH_SITE, ORIGIN, MalformedRequest, Request

_READS = frozenset({"GET", "HEAD"})
_CROSS_SITE = b"cross-site"
_NAME = rb"__Host-hortus-[a-z-]{1,32}"
_OCTET = rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]"  # RFC 6265 section 4.1.1
_COOKIE = re.compile(rb'(%b)=("?)(%b{0,4096})\2' % (_NAME, _OCTET))
_SET = re.compile(rb"%b=" % _NAME)


class ForeignOrigin(Forbidden):
    """A page that is not Hortus's own asked for a change, in somebody's browser."""

    title = "A page of another origin cannot do this"


class Origins:
    """The origins of Hortus's own pages, as browsers write them: ``https://host[:port]``, without the usual port."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._own = frozenset(origin.removesuffix(":443").encode("ascii") for origin in origins)

    def demand_own(self, request: Request) -> None:
        """Refuse a change that a browser asks for on behalf of a foreign page (``Origin: null`` is one). Raises ForeignOrigin."""
        said = request.browser
        if not said or request.method in _READS:
            return
        if _CROSS_SITE in said.get(FETCH_SITE, ()) or not self._own.issuperset(said.get(ORIGIN, ())):
            raise ForeignOrigin


def cookie_line(request: Request) -> bytes:
    """Hortus's own cookies as one header line; empty when there is none. Raises MalformedRequest."""
    kept: dict[bytes, bytes] = {}
    for pair in b";".join(request.browser.get(COOKIE, ())).split(b";"):
        cookie = _COOKIE.fullmatch(pair.strip(b" \t"))
        if cookie is not None:
            if cookie[1] in kept:
                raise MalformedRequest("A cookie came twice.")
            kept[cookie[1]] = cookie[0]
    return b"cookie: %b\r\n" % b"; ".join(kept.values()) if kept else b""


def is_own_cookie(set_cookie: bytes) -> bool:
    """Whether a service sets a cookie that this gateway hands out."""
    return _SET.match(set_cookie) is not None
