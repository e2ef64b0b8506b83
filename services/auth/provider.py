"""How auth speaks with identity providers: discovery, keys, the exchange of a code, userinfo, and signatures of their tokens.

A provider's documents are kept for an hour. A token that names an unknown key has the keys read anew, at most every few
seconds, so that nobody who invents key names makes us ask.
"""

import asyncio
import json
import ssl
import time
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey, import_key

from services.auth.settings import IdentityProvider, IdentityProviders

KEPT_S = 3600.0
KEYS_PAUSE_S = 5.0
FAILURE_S = 2.0
REQUEST_S = 10.0
MOST_BYTES = 1 << 20
MOST_TOKEN = 64 * 1024
LEAST_RSA_BITS = 2048
WELL_KNOWN = "/.well-known/openid-configuration"
KEY_TYPES: dict[str, type[RSAKey] | type[ECKey]] = {"RS256": RSAKey, "PS256": RSAKey, "ES256": ECKey}

T = TypeVar("T")


class BadProviderFile(Exception):
    """The file of identity providers cannot be used."""


class Away(Exception):
    """The provider does not answer, or says itself that something is wrong with it."""


class Garbled(Exception):
    """The provider's answer is not what the protocol says, or is not signed by it; the text names what, without its value."""


class CodeRefused(Exception):
    """The provider does not take the code."""


class _Kept:
    """Something of a provider that is read once an hour, by one reader at a time; a failure too is kept, for a moment."""

    def __init__(self, read: Callable[[], Awaitable[Any]]) -> None:
        self._read = read
        self._lock = asyncio.Lock()
        self._value: Any = None
        self._at = -KEPT_S
        self._failure: Away | Garbled | None = None
        self._failed_at = -FAILURE_S

    async def value(self, not_older_than: float = KEPT_S) -> Any:
        """What was read at most this many seconds ago. Raises what reading raises."""
        async with self._lock:
            now = time.monotonic()
            if self._value is not None and now - self._at < not_older_than:
                return self._value
            if self._failure is not None and now - self._failed_at < FAILURE_S:
                raise self._failure
            try:
                self._value = await self._read()
            except (Away, Garbled) as error:
                self._failure, self._failed_at = error, time.monotonic()
                raise
            self._at, self._failure = time.monotonic(), None
            return self._value


class Provider:
    """One identity provider. All that it is asked raises Away and Garbled."""

    def __init__(self, config: IdentityProvider) -> None:
        self.config = config
        try:
            context = ssl.create_default_context(cafile=config.trust)
            self._secret = config.client_secret_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadProviderFile(f"{config.name}: {type(error).__name__}") from error
        if not self._secret:
            raise BadProviderFile(f"{config.name}: the client's secret is empty")
        self._client = httpx2.AsyncClient(verify=context, timeout=REQUEST_S, follow_redirects=False)
        self._discovery = _Kept(lambda: self._json("GET", config.issuer.rstrip("/") + WELL_KNOWN))
        self._keys: dict[str, _Kept] = {}

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def discovery(self) -> dict[str, Any]:
        """What it says of itself (OpenID Connect Discovery 1.0)."""
        found: dict[str, Any] = await self._discovery.value()
        return found

    async def exchange(self, place: str, code: str, verifier: str, redirect_uri: str) -> tuple[str, str | None]:
        """The id_token, and the access token, for a code (RFC 6749 section 4.1.3). Raises CodeRefused too."""
        name, secret = quote(self.config.client_id, safe=""), quote(self._secret, safe="")  # RFC 6749 section 2.3.1
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": redirect_uri, "code_verifier": verifier}
        answer = await self._json("POST", place, data=form, auth=(name, secret))
        token, access = answer.get("id_token"), answer.get("access_token")
        if not isinstance(token, str):
            raise Garbled("id_token")
        return token, access if isinstance(access, str) else None

    async def userinfo(self, place: str, access_token: str) -> dict[str, Any]:
        """What it says of the person beside the id_token."""
        return await self._json("GET", place, headers={"Authorization": f"Bearer {access_token}"})

    async def _read_keys(self, place: str) -> list[Mapping[str, Any]]:
        keys = (await self._json("GET", place)).get("keys")
        if not isinstance(keys, list):
            raise Garbled("keys")
        return [key for key in keys if isinstance(key, dict)]

    async def read_token(self, keys_at: str, token: str) -> tuple[dict[str, Any], str]:
        """The claims of a token that one of its keys signed, and by which algorithm."""
        if len(token) > MOST_TOKEN or token.count(".") != 2:  # noqa: PLR2004 - RFC 7515: three parts
            raise Garbled("form of the token")
        try:
            header = jws.extract_compact(token.encode()).headers()
        except (JoseError, ValueError) as error:
            raise Garbled("form of the token") from error
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self.config.algorithms:
            raise Garbled("alg")
        kept = self._keys.setdefault(keys_at, _Kept(lambda: self._read_keys(keys_at)))
        keys = _fitting(await kept.value(), algorithm, key_id) or _fitting(await kept.value(KEYS_PAUSE_S), algorithm, key_id)
        for key in keys:
            claims = _signed_with(token, key, algorithm)
            if claims is not None:
                return claims, algorithm
        raise Garbled("signature" if keys else "kid")

    async def _json(self, method: str, place: str, **arguments: Any) -> dict[str, Any]:
        """An answer of the provider: a JSON object of bounded size, in bounded time."""
        headers = {"Accept": "application/json", **arguments.pop("headers", {})}
        try:
            async with asyncio.timeout(REQUEST_S), self._client.stream(method, place, headers=headers, **arguments) as answer:
                body = bytearray()
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > MOST_BYTES:
                        raise Garbled("size of an answer")
        except (httpx2.HTTPError, OSError, TimeoutError) as error:
            raise Away from error
        if method == "POST" and answer.status_code in (400, 401, 403):
            raise CodeRefused
        if answer.status_code != httpx2.codes.OK:
            raise Away
        try:
            document = json.loads(body)
        except ValueError as error:
            raise Garbled("JSON") from error
        if not isinstance(document, dict):
            raise Garbled("JSON")
        return document


def _fitting(keys: list[Mapping[str, Any]], algorithm: str, key_id: object) -> list[RSAKey | ECKey]:
    """The keys that a token's header may mean; one without a key id may mean any."""
    found: list[RSAKey | ECKey] = []
    for jwk in keys:
        meant = key_id is None or jwk.get("kid") == key_id
        if not meant or jwk.get("use", "sig") != "sig" or jwk.get("alg", algorithm) != algorithm:
            continue
        try:
            key = import_key({name: value for name, value in jwk.items() if name in ("kty", "kid", "n", "e", "crv", "x", "y")})
        except (JoseError, ValueError, TypeError):
            continue
        if isinstance(key, KEY_TYPES[algorithm]) and not (isinstance(key, RSAKey) and key.raw_value.key_size < LEAST_RSA_BITS):
            found.append(key)
    return found


def _signed_with(token: str, key: RSAKey | ECKey, algorithm: str) -> dict[str, Any] | None:
    try:
        payload = json.loads(jws.deserialize_compact(token, key, algorithms=[algorithm]).payload)
    except (JoseError, ValueError):
        return None
    return payload if isinstance(payload, dict) else None


def read_file(path: Path | None) -> dict[str, Provider]:
    """The identity providers in a file (JSON where its name says so, else TOML), by name. Raises BadProviderFile."""
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        found = IdentityProviders.model_validate(json.loads(text) if path.suffix == ".json" else tomllib.loads(text))
    except (OSError, ValueError) as error:
        raise BadProviderFile(f"{path}: {error}") from error
    return {each.name: Provider(each) for each in found.provider}
