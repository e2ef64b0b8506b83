"""The agent's way to the gateway: TLS 1.3 with a certificate, and answers sorted into refused and away."""

import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx2

API = "/api/v1"
TIMEOUT_S = 10.0
AWAY = frozenset({408, 425, 429, 500, 502, 503, 504})


class Away(Exception):
    """The gateway or what is behind it does not answer now; the same request may be sent again."""


class Refused(Exception):
    """An answer that stays the same when asked again: ``status`` and ``slug`` of its problem."""

    def __init__(self, status: int, slug: str) -> None:
        super().__init__(f"{status} {slug}")
        self.status = status
        self.slug = slug


class Door:
    """The gateway as seen with a certificate, or with none."""

    def __init__(self, url: str, root: Path, chain: str | None = None, key: str | None = None) -> None:
        self._url = url.rstrip("/") + API
        self._root = root
        self._client = self._opened(chain, key)
        self._before: httpx2.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for client in filter(None, (self._before, self._client)):
            await client.aclose()

    async def show(self, chain: str, key: str) -> None:
        """Show this certificate from now on; what is under way ends with the one before."""
        if self._before is not None:
            await self._before.aclose()
        self._before, self._client = self._client, self._opened(chain, key)

    def _opened(self, chain: str | None, key: str | None) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(verify=_context(self._root, chain, key), timeout=TIMEOUT_S, trust_env=False)

    async def call(
        self, method: str, path: str, *, after: str = "", headers: dict[str, str] | None = None, **arguments: Any
    ) -> httpx2.Response:
        """One request; ``after`` names facts that must have been heard. Raises Away, Refused."""
        try:
            answer = await self._client.request(method, self._url + path, headers=_headers(after, headers), **arguments)
        except httpx2.HTTPError as error:
            raise Away(type(error).__name__) from error
        _check(answer)
        return answer

    @asynccontextmanager
    async def stream(self, path: str, *, after: str = "") -> AsyncIterator[httpx2.Response]:
        """A GET whose body is read piece by piece. Raises Away, Refused."""
        try:
            async with self._client.stream("GET", self._url + path, headers=_headers(after, None)) as answer:
                _check(answer)
                yield answer
        except httpx2.HTTPError as error:
            raise Away(type(error).__name__) from error


def _headers(after: str, more: dict[str, str] | None) -> dict[str, str]:
    return ({"Hortus-After": after} if after else {}) | (more or {})


def _check(answer: httpx2.Response) -> None:
    if answer.status_code in AWAY:
        raise Away(str(answer.status_code))
    if not answer.is_success:
        raise Refused(answer.status_code, answer.headers.get("Hortus-Reason", ""))


def _context(root: Path, chain: str | None, key: str | None) -> ssl.SSLContext:
    """A context that trusts the root alone. The key goes to the TLS library by a file in memory and touches no disk."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(root)
    if chain is not None and key is not None:
        opened = os.memfd_create("hortus-key")
        try:
            os.write(opened, (chain + "\n" + key).encode())
            context.load_cert_chain(f"/proc/self/fd/{opened}")
        finally:
            os.close(opened)
    return context
