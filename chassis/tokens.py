"""Access tokens: ES256 JSON Web Tokens (RFC 7519). The only module that imports python-jose.

The library accepts any algorithm unless told, so ES256 is passed always and keys are JWK alone (RFC 7517): a public key
in DER or PEM could be taken for an HMAC secret.
"""

import base64
import functools
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeAlias
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec
from jose import jwk, jwt
from jose.exceptions import JOSEError
from uuid_utils.compat import uuid7

ALGORITHM = "ES256"
ISSUER = "hortus"
LEEWAY_S = 5
MAX_LENGTH = 4096
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")  # RFC 7515 section 7.1 and appendix C, RFC 7518 section 3.4

Jwk = Mapping[str, str]
Ready: TypeAlias = jwk.Key


class InvalidToken(Exception):
    """The token is not one of ours, or not valid now."""


@dataclass(frozen=True)
class Claims:
    """What a valid token says: who, in which session, until when (Unix seconds); and the id of the key that signed it."""

    user_id: UUID
    session_id: UUID
    expires: int
    key_id: str


def _b64(number: int) -> str:
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).rstrip(b"=").decode()


def private_jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    """A P-256 private key as JWK."""
    return {**public_jwk(key.public_key()), "d": _b64(key.private_numbers().private_value)}


def public_jwk(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """A P-256 public key as JWK."""
    numbers = key.public_numbers()
    return {"kty": "EC", "crv": "P-256", "alg": ALGORITHM, "use": "sig", "x": _b64(numbers.x), "y": _b64(numbers.y)}


def ready(key: Jwk) -> Ready:
    """A private key that is ready to sign; to make it ready takes longer than a signature."""
    return jwk.construct(dict(key), ALGORITHM)


def issue(key: Jwk | Ready, key_id: str, user_id: UUID, session_id: UUID, now: datetime, lifetime: timedelta) -> tuple[str, datetime]:
    """Sign an access token; returns it with the time it expires at."""
    expires = now + lifetime
    claims = {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": str(user_id),
        "sid": str(session_id),
        "iat": int(now.timestamp()),
        "exp": int(expires.timestamp()),
        "jti": str(uuid7()),
    }
    token: str = jwt.encode(claims, ready(key) if isinstance(key, Mapping) else key, algorithm=ALGORITHM, headers={"kid": key_id})
    return token, expires


def verify(token: str, keys: Mapping[str, Jwk]) -> Claims:
    """Check a token against the live keys, by key id, with 5 s of leeway for clocks. Raises InvalidToken."""
    if not _has_form(token):
        raise InvalidToken
    try:
        header = jwt.get_unverified_header(token)
        named = str(header.get("kid"))
        key = keys.get(named)
        if header.get("alg") != ALGORITHM or key is None:
            raise InvalidToken
        claims = jwt.decode(
            token,
            _ready(key["x"], key["y"]),
            algorithms=[ALGORITHM],
            audience=ISSUER,
            issuer=ISSUER,
            options={
                "leeway": LEEWAY_S,
                "require_exp": True,
                "require_iat": True,
                "require_sub": True,
                "require_aud": True,
                "require_iss": True,
            },
        )
        if int(claims["iat"]) > time.time() + LEEWAY_S:
            raise InvalidToken
        return Claims(UUID(claims["sub"]), UUID(claims["sid"]), int(claims["exp"]), named)
    except (JOSEError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise InvalidToken from error


@functools.lru_cache(maxsize=64)
def _ready(x: str, y: str) -> jwk.Key:
    """The public key at a point of the curve P-256, for ES256 alone; to make it takes a good part of a check."""
    return jwk.construct({"kty": "EC", "crv": "P-256", "x": x, "y": y}, ALGORITHM)


def key_id(token: str) -> str | None:
    """The key id that what looks like one of our tokens names, unchecked: good for knowing what to wait for and for nothing else."""
    if not _has_form(token):
        return None
    try:
        header = jwt.get_unverified_header(token)
    except JOSEError:
        return None
    named = header.get("kid")
    return named if isinstance(named, str) and header.get("alg") == ALGORITHM else None


def _has_form(token: str) -> bool:
    """Whether a text is short enough and has the three parts of a token signed with ES256; an encrypted one would have five."""
    return len(token) <= MAX_LENGTH and _FORM.fullmatch(token) is not None
