"""One connection to the gateway: TLS 1.3, bounded retries that cannot do a thing twice, problems as exceptions."""

import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any, cast

import httpx2

from hortus.client import renewal
from hortus.client.answers import HELD_BACK, asked_to_wait, cookies_of, is_certificate_error, json_of, refusal, said, unreachable
from hortus.client.errors import FactorTooOld, HortusError, Refused, Unreachable
from hortus.client.memory import Memory
from hortus.client.shapes import Session
from hortus.client.signin import DEVICE_COOKIE, REFRESH_COOKIE, Keeper, SignIn

API = "/api/v1"
PAGE = 200
STALE = frozenset({"invalid-credential", "session-ended"})

Body = Callable[[], Iterator[bytes]]
Params = Mapping[str, str | int | None]
Shown = Mapping[str, Any]


@dataclass(frozen=True)
class Manner:
    """How one request is asked, and asked again.

    ``repeatable``: also after a lost connection. ``resent``: what it carries can be sent more than once. ``again``: a refusal that a newer
    token or factor mends is mended, each once. ``told``: its answer says something, so that one that was done and is held back is refused.
    ``stream``: the caller takes the answer's bytes.
    """

    repeatable: bool = True
    resent: bool = True
    again: bool = True
    told: bool = True
    stream: bool = False


class Wire:
    """Requests to one address, with one credential.

    ``trust``: PEM file (or text) of the root certificate. ``token``: an access token or an API key. ``certificate``: PEM files of
    chain and key. ``refresh``: where the sign-in is kept and renewed, if not in memory. ``factor`` gives what is shown of a
    second factor (``{"code": …}``) when a door asks for a fresh one. ``patience``: the most seconds that retries of one
    request may take together.
    """

    def __init__(
        self,
        address: str,
        trust: Path | str,
        *,
        token: str | None = None,
        certificate: tuple[Path, Path] | None = None,
        refresh: Keeper | None = None,
        factor: Callable[[], Shown] | None = None,
        memory: Memory | None = None,
        timeout: float = 30.0,
        patience: float = 15.0,
        attempts: int = 4,
    ) -> None:
        if not address.startswith("https://"):
            raise HortusError(f"The address must begin with https://, and {address!r} does not.")
        self.address = address.rstrip("/")
        self.memory = memory or Memory()
        self._patience = patience
        self._attempts = attempts
        self._factor = factor
        self._context = _context(trust, certificate)
        self._http = self._connections(httpx2.Timeout(timeout, connect=5.0))
        self._renewal = renewal.Renewal(refresh or Keeper(SignIn(token=token or "")), self.address, self._ask_for_renewal)

    @property
    def token(self) -> str | None:
        """The access token or API key that is shown now."""
        return self._renewal.current.token or None

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
        anonymous: bool = False,
        told: bool = False,
    ) -> Any:
        """One request with a JSON answer (None for an empty one).

        ``version`` becomes ``If-Match``. A POST carries an ``Idempotency-Key`` and is repeated after a lost connection,
        unless ``once``: then it is repeated only where it certainly was not carried out. ``anonymous``: no token is shown.
        ``told``: a DELETE whose answer says something, so that one that was done and whose answer is held back is refused all the same.
        """
        headers: dict[str, str] = {}
        if method == "POST" and not once:
            headers["Idempotency-Key"] = str(uuid.uuid4())
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        manner = Manner(repeatable=not once and method != "PATCH", again=not anonymous, told=told or method != "DELETE")

        def request() -> httpx2.Request:
            return self._request(method, path, headers, params=params, json=body, anonymous=anonymous)

        answer = self._attempt(request, manner)
        if answer.status_code == HTTPStatus.NO_CONTENT or not answer.content:
            return None
        return json_of(answer)

    def enter(self, shown: Shown) -> Session:
        """Sign in, and be this person from here on. What was shown counts once, so it is not sent again."""
        headers = _cookies({DEVICE_COOKIE: self._renewal.current.device})
        answer = self._attempt(
            lambda: self._request("POST", "/sessions", headers, json=shown, anonymous=True), Manner(repeatable=False, again=False)
        )
        session = cast("Session", json_of(answer))
        self._renewal.enter(session, cookies_of(answer))
        return session

    def step_up(self, shown: Shown) -> Any:
        """Show a second factor once more for the session."""
        return self.call("POST", "/sessions/current/factor", shown, once=True)

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
        """PUT a stream of bytes; ``body`` gives a fresh iterator for every attempt, or, where it is not ``repeatable``, the only one."""

        def request() -> httpx2.Request:
            return self._request("PUT", path, headers, content=body())

        return json_of(self._attempt(request, Manner(repeatable=repeatable, again=repeatable, resent=repeatable)))

    @contextmanager
    def receive(self, path: str) -> Iterator[httpx2.Response]:
        """An open answer whose bytes the caller takes as they come."""
        answer = self._attempt(lambda: self._request("GET", path, {}), Manner(stream=True))
        try:
            yield answer
        except httpx2.TransportError as error:
            raise Unreachable(f"The connection to {self.address} was cut while bytes were coming ({said(error)}).") from error
        finally:
            answer.close()

    def _request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        *,
        params: Params | None = None,
        json: Any = None,
        content: Any = None,
        anonymous: bool = False,
    ) -> httpx2.Request:
        sent = dict(headers)
        if self.token is not None and not anonymous:
            sent["Authorization"] = f"Bearer {self.token}"
        after = self.memory.header()
        if after is not None:
            sent["Hortus-After"] = after
        return self._http.build_request(
            method, API + path, headers=sent, params=given(**(params or {})) or None, json=json, content=content
        )

    def _attempt(self, request: Callable[[], httpx2.Request], manner: Manner) -> httpx2.Response:
        """An answer that is a success."""
        if manner.again and self._renewal.due:
            self._renewal.renew()
        mended: set[str] = set()
        while True:
            shown = self.token
            try:
                return self._repeat(request, manner)
            except Refused as refused:
                if not manner.again or refused.slug in mended or not self._mend(refused, shown):
                    raise
                mended.add(refused.slug)

    def _mend(self, refused: Refused, shown: str | None) -> bool:
        if isinstance(refused, FactorTooOld) and self._factor is not None:
            try:
                self.step_up(self._factor())
            except Refused as held:
                if held.slug != HELD_BACK:  # it was taken
                    raise
            return True
        return refused.status == HTTPStatus.UNAUTHORIZED and refused.slug in STALE and shown is not None and self._renewal.renew(shown)

    def _repeat(self, request: Callable[[], httpx2.Request], manner: Manner) -> httpx2.Response:
        until = time.monotonic() + self._patience
        lost = False
        for attempt in range(1, self._attempts + 1):
            last = attempt == self._attempts
            try:
                answer = self._http.send(request(), stream=manner.stream)
            except httpx2.ConnectError as error:
                pause = 0.1 * 2**attempt
                if last or is_certificate_error(error) or time.monotonic() + pause > until:
                    raise Unreachable(unreachable(self.address, error)) from error
            except httpx2.TransportError as error:
                pause = 0.1 * 2**attempt
                lost = True
                if last or not manner.repeatable or time.monotonic() + pause > until:
                    raise Unreachable(f"The connection to {self.address} was lost ({said(error)}).") from error
            else:
                self.memory.learn(answer.headers.get("Hortus-Facts"))
                if answer.is_success:
                    return answer
                answer.read()
                answer.close()
                refused, method = refusal(answer), answer.request.method
                if method == "DELETE" and (
                    (lost and refused.status == HTTPStatus.NOT_FOUND) or (refused.slug == HELD_BACK and not manner.told)
                ):
                    # It was carried out; only its answer was lost, or could not be shown.
                    return httpx2.Response(HTTPStatus.NO_CONTENT, request=answer.request)
                asked = asked_to_wait(answer)
                again = manner.resent and (refused.slug != HELD_BACK or "Idempotency-Key" in answer.request.headers)
                if asked is None or not again or last or time.monotonic() + asked > until:
                    raise refused
                pause = asked
            time.sleep(pause)
        raise Unreachable(f"{self.address} gave no answer.")

    def _ask_for_renewal(self, kept: SignIn, timeout: httpx2.Timeout) -> httpx2.Response:
        with self._connections(timeout) as http:
            headers = _cookies({REFRESH_COOKIE: kept.refresh_token, DEVICE_COOKIE: kept.device})
            answer = http.post(API + "/sessions/refresh", headers=headers)
        self.memory.learn(answer.headers.get("Hortus-Facts"))
        return answer

    def _connections(self, timeout: httpx2.Timeout) -> httpx2.Client:
        """Connections that keep no cookie: those of Hortus are kept with the sign-in and sent to the doors that take them."""
        return httpx2.Client(
            base_url=self.address,
            verify=self._context,
            timeout=timeout,
            trust_env=False,
            headers={"User-Agent": "hortus"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )


def given(**values: Any) -> dict[str, Any]:
    """What a caller gave: a value of None is left out, so that the door's own default counts."""
    return {name: value for name, value in values.items() if value is not None}


def _cookies(named: Mapping[str, str]) -> dict[str, str]:
    """The header for those cookies that are there."""
    held = "; ".join(f"{name}={value}" for name, value in named.items() if value)
    return {"Cookie": held} if held else {}


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
