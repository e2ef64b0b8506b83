"""What browsers show: the page for signing in, and a page for each refusal; whole in themselves, nothing is loaded."""

import base64
import hashlib
import html
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.responses import HTMLResponse

from chassis.errors import REASON_HEADER, Problem
from chassis.guard import Door, doors, may
from contracts.policy import Action, Service

router = doors(Service.AUTH)
HOME = Path(__file__).parents[1] / "pages"


def _read(name: str) -> str:
    return (HOME / name).read_text(encoding="utf-8")


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


STYLE, SCRIPT = _read("pages.css"), _read("sign_in.js")
SIGN_IN = _read("sign_in.html").replace("/*style*/", STYLE).replace("/*script*/", SCRIPT)
PROBLEM = _read("problem.html").replace("/*style*/", STYLE)
NOTHING_ELSE = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
SIGN_IN_POLICY = f"{NOTHING_ELSE}; connect-src 'self'; script-src {_hash(SCRIPT)}; style-src {_hash(STYLE)}"
PROBLEM_POLICY = f"{NOTHING_ELSE}; style-src {_hash(STYLE)}"

BROWSER_RESPONSE = {
    "description": "A refusal: a page, or a problem (RFC 9457) where the request cannot be read",
    "content": {"text/html": {}, "application/problem+json": {}},
}


def _headers(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
        "Referrer-Policy": "same-origin",
    }


def problem_page(problem: Problem) -> Response:
    """A refusal as a person in front of a browser reads it; ``Hortus-Reason`` is as always."""
    sentence = html.escape(problem.title)
    headers = {**_headers(PROBLEM_POLICY), REASON_HEADER: problem.slug}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    return HTMLResponse(PROBLEM.replace("<!--sentence-->", f"{sentence}."), problem.status, headers=headers)


class BrowserDoor(Door):
    """A door that browsers are sent to: its refusals are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Show what a door refuses."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except Problem as problem:
                return problem_page(problem)

        return handle


@router.get("/sign-in", response_class=HTMLResponse, dependencies=[may(Action.SIGN_IN_PAGE)])
async def sign_in_page() -> Response:
    """The page for signing in, and the browser's half of ``hortus login --browser``."""
    return HTMLResponse(SIGN_IN, headers=_headers(SIGN_IN_POLICY))
