"""What a door's function is given.

FastAPI works out anew, for each request, how to find the arguments of a function, which costs as much as all else that it does for a small request. Where a
function takes a path's parameters, one JSON body and what depends on the request alone, and answers with a response of its own, they are found here.
A request that does not fit goes FastAPI's way, which says what is wrong with it, after it has run what the function depends on.
"""

import json
from collections.abc import Callable, Coroutine
from dataclasses import fields
from inspect import iscoroutinefunction
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
JSON = "application/json"
NOTHING_ASKED = frozenset({"name", "call", "path", "scope", "use_cache", "request_param_name"})
PARTS = frozenset({"path_params", "body_params", "dependencies"})


def found_here(route: APIRoute, solver: Handler) -> Handler:
    """A handler that finds the arguments of a route's function itself where it can; ``solver`` is FastAPI's, for all else."""
    wanted, call = route.dependant, route.endpoint
    if not _is_plain(wanted) or not _answers_itself(call):
        return solver
    depends: list[Any] = [(each.name, each.call, each.request_param_name) for each in wanted.dependencies]

    async def handle(request: Request) -> Response:
        given = await _shown(request, wanted)
        if given is None:
            return await solver(request)
        if wanted.request_param_name:
            given[wanted.request_param_name] = request
        for name, depend, parameter in depends:
            given[name] = await depend(**{parameter: request})
        response: Response = await call(**given)
        return response

    return handle


async def _shown(request: Request, wanted: Dependant) -> dict[str, Any] | None:
    """What a path and a body say, None where something does not fit."""
    given: dict[str, Any] = {}
    for field in wanted.path_params:
        given[field.name], wrong = field.validate(request.path_params[field.alias], {}, loc=())
        if wrong:
            return None
    for field in wanted.body_params:
        if request.headers.get("content-type") != JSON:
            return None
        try:
            shown = json.loads(await request.body())
        except (ValueError, RecursionError, ClientDisconnect):
            return None
        given[field.name], wrong = field.validate(shown, {}, loc=())
        if wrong:
            return None
    return given


def _is_plain(wanted: Dependant) -> bool:
    """Whether a function wants nothing but the request, parameters of the path, one body, and what asks for the request alone."""
    whole = all(not getattr(field.field_info, "embed", None) for field in wanted.body_params) and len(wanted.body_params) <= 1
    return whole and _asks_only(wanted, PARTS) and all(_asks_only(each) and _is_awaited(each) for each in wanted.dependencies)


def _asks_only(wanted: Dependant, parts: frozenset[str] = frozenset()) -> bool:
    return all(not getattr(wanted, each.name) for each in fields(wanted) if each.name not in NOTHING_ASKED | parts)


def _is_awaited(depend: Dependant) -> bool:
    return iscoroutinefunction(depend.call) and bool(depend.name and depend.request_param_name)


def _answers_itself(call: Callable[..., Any]) -> bool:
    answer = get_type_hints(call).get("return")
    return iscoroutinefunction(call) and isinstance(answer, type) and issubclass(answer, Response)
