"""The operators' doors: alive, ready (and what exactly is missing), metrics. On a port of their own, over mutual TLS."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import prometheus_client
from starlette.responses import JSONResponse, Response

from chassis.errors import NotFound, problem_response
from gateway.measures import Measures


class Operators:
    """A small ASGI application; ``checks`` say in words what is missing, ``warnings`` what somebody should look at although it is ready."""

    def __init__(
        self, checks: Sequence[Callable[[], list[str]]], measures: Measures, warnings: Sequence[Callable[[], list[str]]] = ()
    ) -> None:
        self._checks = checks
        self._warnings = warnings
        self._measures = measures

    async def __call__(
        self, scope: Mapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        """Serve one request (ASGI)."""
        await self._answer(scope["method"], scope["path"])(dict(scope), receive, send)

    def _answer(self, method: str, path: str) -> Response:
        if method == "GET" and path == "/livez":
            return JSONResponse({"status": "alive"})
        if method == "GET" and path == "/readyz":
            missing = [reason for check in self._checks for reason in check()]
            warnings = [warning for look in self._warnings for warning in look()]
            return JSONResponse({"ready": not missing, "missing": missing, "warnings": warnings}, 503 if missing else 200)
        if method == "GET" and path == "/metrics":
            text = prometheus_client.generate_latest(self._measures.registry) + prometheus_client.generate_latest()
            return Response(text, media_type=prometheus_client.CONTENT_TYPE_LATEST)
        return problem_response(NotFound())
