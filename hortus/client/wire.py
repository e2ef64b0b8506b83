"""One connection to the gateway: TLS 1.3, bounded retries that cannot do a thing twice, problems as exceptions."""

import re
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2

from hortus.client.errors import Altered, HortusError, Refused, Unreachable
from hortus.client.memory import Memory

API = "/api/v1"
PROBLEM = "urn:hortus:problem:"
RETRY_AFTER_CAP = 5.0
PAGE = 200

Body = Callable[[], Iterator[bytes]]
Params = Mapping[str, str | int | None]


class Wire:
    """Requests to one address, with one credential.

    ``trust``: PEM file (or text) of the root certificate. ``certificate``: PEM files of chain and key. ``patience``: the
    most seconds that retries of one request may take together.
    """

    def __init__(
        self,
        address: str,
        trust: Path | str,
        *,
        token: str | None = None,
        certificate: tuple[Path, Path] | None = None,
        memory: Memory | None = None,
        timeout: float = 30.0,
        patience: float = 15.0,
        attempts: int = 4,
    ) -> None:
        if not address.startswith("https://"):
            raise HortusError(f"The address must begin with https://, and {address!r} does not.")
        self.address = address.rstrip("/")
        self.token = token
        self.memory = memory or Memory()
        self._patience = patience
        self._attempts = attempts
        self._http = httpx2.Client(
            base_url=self.address,
            verify=_context(trust, certificate),
            timeout=httpx2.Timeout(timeout, connect=5.0),
            trust_env=False,
            headers={"User-Agent": "hortus"},
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Params | None = None,
        version: int | None = None,
        once: bool = False,
    ) -> Any:
        """One request with a JSON answer (None for an empty one).

        ``version`` becomes ``If-Match``. A POST carries an ``Idempotency-Key`` and is repeated after a lost connection,
        unless ``once``: then it is repeated only where it certainly was not carried out.
        """
        headers: dict[str, str] = {}
        if method == "POST" and not once:
            headers["Idempotency-Key"] = str(uuid.uuid4())
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        repeatable = not once and method != "PATCH"

        def request() -> httpx2.Request:
            return self._request(method, path, headers, params=params, json=body)

        answer = self._attempt(request, repeatable=repeatable)
        if answer.status_code == HTTPStatus.NO_CONTENT or not answer.content:
            return None
        return _json(answer)

    def pages(self, path: str, params: Params | None = None, most: int | None = None) -> Iterator[Any]:
        """Every item of a list, page after page; at most ``most``."""
        after: str | None = None
        given = 0
        while True:
            limit = PAGE if most is None else min(PAGE, most - given)
            page = self.call("GET", path, params={**(params or {}), "limit": limit, "after": after})
            for item in page["items"]:
                yield item
                given += 1
            after = page.get("next")
            if after is None or (most is not None and given >= most):
                return

    def send(self, path: str, body: Body, headers: Mapping[str, str], *, repeatable: bool) -> Any:
        """PUT a stream of bytes; ``body`` gives a fresh iterator for every attempt."""

        def request() -> httpx2.Request:
            return self._request("PUT", path, headers, content=body())

        return _json(self._attempt(request, repeatable=repeatable))

    @contextmanager
    def receive(self, path: str) -> Iterator[httpx2.Response]:
        """An open answer whose bytes the caller takes as they come."""
        answer = self._attempt(lambda: self._request("GET", path, {}), repeatable=True, stream=True)
        try:
            yield answer
        except httpx2.TransportError as error:
            raise Unreachable(f"The connection to {self.address} was cut while bytes were coming ({_said(error)}).") from error
        finally:
            answer.close()

    def _request(
        self, method: str, path: str, headers: Mapping[str, str], *, params: Params | None = None, json: Any = None, content: Any = None
    ) -> httpx2.Request:
        sent = dict(headers)
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        after = self.memory.header()
        if after is not None:
            sent["Hortus-After"] = after
        given = {name: value for name, value in (params or {}).items() if value is not None}
        return self._http.build_request(method, API + path, headers=sent, params=given or None, json=json, content=content)

    def _attempt(self, request: Callable[[], httpx2.Request], *, repeatable: bool, stream: bool = False) -> httpx2.Response:
        until = time.monotonic() + self._patience
        lost = False
        for attempt in range(1, self._attempts + 1):
            last = attempt == self._attempts
            try:
                answer = self._http.send(request(), stream=stream)
            except httpx2.ConnectError as error:
                pause = 0.1 * 2**attempt
                if last or _is_certificate_error(error) or time.monotonic() + pause > until:
                    raise Unreachable(_unreachable(self.address, error)) from error
            except httpx2.TransportError as error:
                pause = 0.1 * 2**attempt
                lost = True
                if last or not repeatable or time.monotonic() + pause > until:
                    raise Unreachable(f"The connection to {self.address} was lost ({_said(error)}).") from error
            else:
                self.memory.learn(answer.headers.get("Hortus-Facts"))
                if answer.is_success:
                    return answer
                if lost and answer.request.method == "DELETE" and answer.status_code == HTTPStatus.NOT_FOUND:
                    # The first attempt was carried out; only its answer was lost.
                    return answer if stream else httpx2.Response(HTTPStatus.NO_CONTENT, request=answer.request)
                answer.read()
                answer.close()
                refusal = _refusal(answer)
                asked = _retry_after(answer)
                if answer.status_code != HTTPStatus.SERVICE_UNAVAILABLE or asked is None or last or time.monotonic() + asked > until:
                    raise refusal
                pause = asked
            time.sleep(pause)
        raise Unreachable(f"{self.address} gave no answer.")


def _context(trust: Path | str, certificate: tuple[Path, Path] | None) -> ssl.SSLContext:
    try:
        if isinstance(trust, str) and "-----BEGIN" in trust:
            context = ssl.create_default_context(cadata=trust)
        else:
            context = ssl.create_default_context(cafile=str(trust))
    except (OSError, ssl.SSLError) as error:
        raise HortusError(f"The root certificate cannot be read from {str(trust)[:200]!r}: {error}.") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if certificate is not None:
        try:
            context.load_cert_chain(*certificate)
        except (OSError, ssl.SSLError) as error:
            raise HortusError(f"The certificate cannot be read from {certificate[0]}: {error}.") from error
    return context


def _json(answer: httpx2.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise Altered(f"The answer to {answer.request.method} {answer.request.url.path} is not JSON.") from error


def _refusal(answer: httpx2.Response) -> Refused:
    said: Any = {}
    if "json" in answer.headers.get("Content-Type", ""):
        try:
            said = answer.json()
        except ValueError:
            said = {}
    if not isinstance(said, dict):
        said = {}
    kind = str(said.get("type", ""))
    slug = kind.removeprefix(PROBLEM) if kind.startswith(PROBLEM) else answer.headers.get("Hortus-Reason", "")
    title = _plain(said.get("title") or answer.reason_phrase)
    return Refused(answer.status_code, slug or f"status-{answer.status_code}", title, _plain(said.get("detail") or ""))


def _plain(text: object) -> str:
    """Text from outside without control characters, so that it cannot steer a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", str(text))[:2000]


def _retry_after(answer: httpx2.Response) -> float | None:
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), RETRY_AFTER_CAP) if asked.isascii() and asked.isdigit() else None


def _is_certificate_error(error: Exception) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _unreachable(address: str, error: Exception) -> str:
    if _is_certificate_error(error):
        return f"{address} shows a certificate that the root you trust does not vouch for."
    return f"{address} cannot be reached ({_said(error)})."


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
