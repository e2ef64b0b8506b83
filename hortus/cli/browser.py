"""Signing in through the browser, for passkeys and identity providers (RFC 8252: a loopback address, PKCE, a state)."""

import base64
import hashlib
import hmac
import os
import queue
import secrets
import sys
import threading
import webbrowser
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

from hortus.cli import show
from hortus.client import HortusError

HOST = "127.0.0.1"
CONNECTION_S = 10
LONGEST_CODE = 256
FRESH = {"fresh": "true"}
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Hortus</title></head>
<body><h1>Hortus</h1><p>{said}</p></body></html>
"""


def sign_in(address: str, *, opens: bool, seconds: float, fresh: bool = False) -> tuple[str, str]:
    """Have somebody sign in in their browser; the code that their browser was given, and its verifier.

    ``fresh``: at an identity provider they sign in anew, although it may know them still. Raises HortusError when nothing comes within
    ``seconds``, or the browser says that it was declined.
    """
    verifier = secrets.token_urlsafe(48)
    state = secrets.token_urlsafe(24)
    with _Loopback(state) as loopback:
        asked = {"client_port": str(loopback.server_port), "challenge": challenge(verifier), "state": state}
        go("Sign in in your browser, on this machine", address, asked | (FRESH if fresh else {}), opens=opens)
        return loopback.code(seconds), verifier


def go(said: str, address: str, asked: dict[str, str], *, opens: bool) -> None:
    """Say where the page for signing in is, and open it."""
    page = f"{address}/api/v1/sign-in?{urlencode(asked)}"
    show.say(f"{said}: {page}")
    if opens and _has_browser():
        webbrowser.open(page)


def challenge(verifier: str) -> str:
    """What is told beforehand of a verifier (S256, RFC 7636 section 4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _has_browser() -> bool:
    """Whether a browser would open in a window, and not in this terminal."""
    return sys.platform in {"darwin", "win32"} or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


class _Loopback(ThreadingHTTPServer):
    """Listens on this machine alone, at a port that nobody knows, for the browser's way back."""

    daemon_threads = True

    def __init__(self, state: str) -> None:
        super().__init__((HOST, 0), _Back)
        self._state = state
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()

    def code(self, seconds: float) -> str:
        """The code that comes back. Raises HortusError."""
        try:
            code = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise HortusError(f"No sign-in came from the browser within {seconds:.0f} s; nothing was changed.") from None
        if code is None:
            raise HortusError("The sign-in was declined in the browser.")
        return code

    def take(self, host: str, target: str) -> tuple[HTTPStatus, str, list[str | None]]:
        """What a request is answered, and what ``hand_over`` gets once it was: the code, or None for a sign-in that was declined.

        Only one that knows the state counts; the others change nothing.
        """
        named = parse_qs(urlsplit(target).query)
        state = named.get("state", [""])[0]
        code = named.get("code", [""])[0]
        if host != f"{HOST}:{self.server_port}" or not hmac.compare_digest(state.encode(), self._state.encode()):
            return HTTPStatus.BAD_REQUEST, "This is not the way back from a sign-in that was begun here.", []
        if "error" in named:
            return HTTPStatus.OK, "Nobody was signed in. You can close this window.", [None]
        if not 0 < len(code) <= LONGEST_CODE:
            return HTTPStatus.BAD_REQUEST, "The code is missing.", []
        return HTTPStatus.OK, "Go back to your terminal. You can close this window.", [code]

    def hand_over(self, came: list[str | None]) -> None:
        """Let ``code`` go on, after which the program may end, and with it what is still being sent to the browser."""
        for code in came:
            self._answers.put(code)


class _Back(BaseHTTPRequestHandler):
    server: _Loopback
    timeout = CONNECTION_S
    server_version = "hortus"
    sys_version = ""

    def do_GET(self) -> None:
        status, said, came = self.server.take(self.headers.get("Host", ""), self.path)
        try:
            self._answer(status, said)
        finally:
            self.server.hand_over(came)

    def _answer(self, status: HTTPStatus, said: str) -> None:
        body = PAGE.format(said=said).encode()
        self.send_response(status)
        for name, value in (
            ("Content-Type", "text/html; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
            ("Cache-Control", "no-store"),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base's name)
        """Say nothing: the request's line holds the code."""
