"""The rules of sign-ins that browsers begin at identity providers: what they carry, and what the provider is asked (RFC 7636)."""

import base64
import hashlib
from dataclasses import dataclass
from urllib.parse import urlencode

from services.auth.settings import IdentityProvider

LONGEST_RETURN = 1024
SIGN_IN_PATH = "/api/v1/sign-in"


@dataclass(frozen=True)
class Flow:
    """A sign-in that a browser began: it carries this, sealed, in a cookie.

    ``to``: where it goes on afterwards. ``fresh``: the person has to sign in at the provider anew, although it may know them still.
    """

    provider: str
    state: str
    nonce: str
    verifier: str
    to: str
    at: float
    fresh: bool = False


def return_path(to: str | None) -> str:
    """Where a browser goes after signing in: the page for signing in, with the query that it had.

    Nothing else: a token follows behind ``#``, and browsers carry that along when the next page sends them on.
    """
    if to is None or len(to) > LONGEST_RETURN or not to.isascii() or not to.isprintable() or set(to) & set("\\# "):
        return SIGN_IN_PATH
    return to if to.partition("?")[0] == SIGN_IN_PATH else SIGN_IN_PATH


def s256(verifier: str) -> str:
    """The challenge that a verifier answers (RFC 7636 section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def question(place: str, provider: IdentityProvider, redirect_uri: str, flow: Flow) -> str:
    """The address that sends a browser to the provider (OpenID Connect Core 1.0 section 3.1.2.1)."""
    asked = {
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(provider.scopes),
        "state": flow.state,
        "nonce": flow.nonce,
        "code_challenge": s256(flow.verifier),
        "code_challenge_method": "S256",
    }
    if flow.fresh:
        asked |= {"prompt": "login", "max_age": "0"}  # some heed only one of them; what they did is seen in auth_time
    return f"{place}{'&' if '?' in place else '?'}{urlencode(asked)}"
