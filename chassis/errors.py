"""Refusals and failures as problem documents (RFC 9457)."""

import re
from typing import Any, ClassVar

from starlette.responses import JSONResponse

from contracts.policy import STEP_UP_S

TYPE_PREFIX = "urn:hortus:problem:"
REASON_HEADER = "Hortus-Reason"
MEDIA_TYPE = "application/problem+json"
PROBLEM_RESPONSE: dict[str, Any] = {
    "description": "A refusal or failure as a problem document (RFC 9457)",
    "content": {
        MEDIA_TYPE: {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status"],
                "properties": {
                    "type": {"type": "string", "pattern": f"^{TYPE_PREFIX}[a-z0-9-]+$"},
                    "title": {"type": "string"},
                    "status": {"type": "integer", "minimum": 400, "maximum": 599},
                    "detail": {"type": "string"},
                    "errors": {"type": "array", "items": {"type": "object"}},
                },
            }
        }
    },
}


class Problem(Exception):
    """A refusal. Subclasses are named for what happened and carry a title; ``detail`` is one sentence for the caller.

    ``slug`` is the stable end of the problem's ``type`` and comes from the class name. ``members`` are extension members
    (RFC 9457 section 3.2), ``challenge`` is what a 401 says in ``WWW-Authenticate``.
    """

    status: ClassVar[int] = 500
    title: ClassVar[str] = "The request failed"
    slug: ClassVar[str] = "problem"
    challenge: ClassVar[str] = "Bearer"

    def __init_subclass__(cls) -> None:
        """Derive the slug of the subclass from its name, unless it brings one."""
        if "slug" not in cls.__dict__:
            cls.slug = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls.__name__).lower()

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after: int | None = None,
        errors: list[dict[str, object]] | None = None,
        members: dict[str, object] | None = None,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail
        self.retry_after = retry_after
        self.errors = errors
        self.members = members or {}


class Unauthenticated(Problem):
    """Who are you?"""

    status = 401
    title = "Sign in first"


class FactorTooOld(Unauthenticated):
    """The door asks for a second factor that was shown a moment ago (RFC 9470)."""

    title = "Show your second factor once more: this needs a fresh one"
    challenge = f'Bearer error="insufficient_user_authentication", max_age="{STEP_UP_S}"'


class Forbidden(Problem):
    """The caller may know that it exists, and may not."""

    status = 403
    title = "Not allowed"


class NotFound(Problem):
    """It does not exist, or the caller may not know that it does."""

    status = 404
    title = "No such resource"


class Conflict(Problem):
    """The state of the resource does not allow it."""

    status = 409
    title = "The resource is not in a state that allows this"


class ChangedMeanwhile(Conflict):
    """Two changes met; nothing was stored of this one."""

    title = "The resource was changed by somebody else in the meantime"


class PreconditionFailed(Problem):
    """If-Match names another version."""

    status = 412
    title = "The resource has another version than If-Match names"


class PreconditionRequired(Problem):
    """An update without If-Match."""

    status = 428
    title = "Send If-Match with the version that you read"


class TooLarge(Problem):
    """The body is larger than the door takes."""

    status = 413
    title = "The body is too large"


class Unprocessable(Problem):
    """The body can be read and is not right."""

    status = 422
    title = "The request is not valid"


class TooManyRequests(Problem):
    """Slow down."""

    status = 429
    title = "Too many requests"


class CannotDecide(Problem):
    """What is needed for a decision is not known at this moment; nothing was done."""

    status = 503
    title = "Cannot decide at this moment"


class CallerLeft(Problem):
    """Nobody waits for the answer any more: the gateway cut the request, or the caller went. Nothing was done."""

    status = 400
    title = "The connection ended before this was done; nothing was stored"


class OutOfSpace(Problem):
    """A disk is full; the door is closed until there is room."""

    status = 507
    title = "There is no room left"


def problem_response(problem: Problem) -> JSONResponse:
    """The answer for a problem: ``application/problem+json`` with the slug in ``Hortus-Reason``."""
    body: dict[str, object] = {**problem.members, "type": TYPE_PREFIX + problem.slug, "title": problem.title, "status": problem.status}
    if problem.detail:
        body["detail"] = problem.detail
    if problem.errors:
        body["errors"] = problem.errors
    headers = {REASON_HEADER: problem.slug}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status == Unauthenticated.status:
        headers["WWW-Authenticate"] = problem.challenge
    return JSONResponse(body, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)
