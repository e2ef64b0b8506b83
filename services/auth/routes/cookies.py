"""The cookies of auth: what they are called and how they are kept (RFC 6265bis, ``__Host-`` names)."""

from typing import Literal

from starlette.responses import Response

REFRESH = "__Host-hortus-refresh"
DEVICE = "__Host-hortus-device"
OIDC = "__Host-hortus-oidc"
PENDING = "__Host-hortus-pending"


def keep(response: Response, name: str, value: str, seconds: int, same_site: Literal["strict", "lax"] = "strict") -> None:
    """Have the browser keep a cookie for this host alone, hidden from scripts."""
    response.set_cookie(name, value, max_age=seconds, path="/", secure=True, httponly=True, samesite=same_site)


def forget(response: Response, name: str, same_site: Literal["strict", "lax"] = "strict") -> None:
    """Have the browser forget a cookie."""
    response.set_cookie(name, "", max_age=0, path="/", secure=True, httponly=True, samesite=same_site)
