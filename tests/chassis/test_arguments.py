"""What a door's function is given is the same whichever way it was found, and so is what is said of a request that does not fit."""

import json
from typing import Annotated, Any
from uuid import UUID

import httpx2
import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from chassis.app import UNTRACED
from chassis.arguments import Handler, found_here

PLACE = UUID("01900000-0000-7000-8000-0000000000aa")


class Order(BaseModel):
    """A body with bounds."""

    count: int = Field(ge=1, le=9)
    name: str = "nothing"


class Once(BaseModel):
    """One of two bodies."""

    code: str


async def _agent(request: Request) -> str:
    return request.headers.get("user-agent", "")


async def _what_is_wrong(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return Response(repr(error.errors()), 422)


Agent = Annotated[str, Depends(_agent)]


class Counting(APIRoute):
    """A route that counts what FastAPI was asked to work out."""

    solved: list[str] = []  # noqa: RUF012 - for all routes

    def get_route_handler(self) -> Handler:
        """The route's handler, with its arguments found here."""
        solver = super().get_route_handler()

        async def counted(request: Request) -> Response:
            self.solved.append(self.name)
            return await solver(request)

        return found_here(self, counted)


def app(route_class: type[APIRoute]) -> FastAPI:
    """Doors of all kinds on routes of a class."""
    router = APIRouter(route_class=route_class)

    @router.post("/places/{place}/orders", status_code=201)
    async def order(place: UUID, shown: Order, agent: Agent, request: Request) -> Response:
        said = {"place": str(place), "count": shown.count, "name": shown.name, "agent": agent, "method": request.method}
        return Response(json.dumps(said), 201, media_type="application/json")

    @router.post("/either")
    async def either(shown: Annotated[Order | Once, Body()]) -> Response:
        return Response(type(shown).__name__ + shown.model_dump_json())

    @router.get("/places/{place:path}")
    async def read(place: str) -> Response:
        return Response(place)

    @router.post("/embedded")
    async def embedded(name: Annotated[str, Body(embed=True)]) -> Response:
        return Response(name)

    @router.post("/optional")
    async def optional(shown: Order | None = None) -> Response:
        return Response(repr(shown))

    @router.get("/counted")
    async def counted(limit: Annotated[int, Query(ge=1)] = 5, tag: Annotated[str | None, Header()] = None) -> Response:
        return Response(f"{limit}{tag}")

    @router.post("/answered", status_code=202)
    async def answered(shown: Order, response: Response) -> Order:
        response.headers["Seen"] = "yes"
        return shown

    made = FastAPI(telemetry=UNTRACED)
    made.include_router(router)
    made.add_exception_handler(RequestValidationError, _what_is_wrong)
    return made


OURS, THEIRS = app(Counting), app(APIRoute)


async def both(method: str, path: str, **request: Any) -> list[tuple[int, bytes, list[tuple[str, str]]]]:
    """The answers to a request by our way and by FastAPI's."""
    answers = []
    for each in (OURS, THEIRS):
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(each), base_url="http://here") as client:
            answer = await client.request(method, path, **request)
        answers.append((answer.status_code, answer.content, sorted(answer.headers.items())))
    return answers


FITS = ("/places/{place}/orders", "/either", "/optional")
BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"null", b"{}", b"[1]", b'{"count": NaN}', b'{"count": 1e3}', b'{"count": "7"}', b"[" * 100_000, b'"\xff"']),
    st.fixed_dictionaries(
        {"count": st.one_of(st.integers(-2, 12), st.text(max_size=3), st.none())}, optional={"name": st.text(max_size=5)}
    ).map(lambda shown: json.dumps(shown).encode()),
    st.fixed_dictionaries({"code": st.one_of(st.text(max_size=3), st.integers())}).map(lambda shown: json.dumps(shown).encode()),
)
TYPES = st.sampled_from(
    ["application/json", "application/json; charset=utf-8", "application/merge+json", "text/plain", "APPLICATION/JSON", ""]
)
PLACES = st.one_of(
    st.just(str(PLACE)), st.just(PLACE.hex), st.just("no-uuid"), st.uuids().map(str), st.just("%00"), st.just(f"urn:uuid:{PLACE}")
)


@given(path=st.sampled_from([*FITS, "/embedded", "/answered"]), place=PLACES, body=BODIES, kind=TYPES)
async def test_a_body_is_answered_as_fastapi_answers_it(path: str, place: str, body: bytes, kind: str) -> None:
    ours, theirs = await both("POST", path.replace("{place}", place), content=body, headers={"content-type": kind} if kind else {})
    assert ours == theirs


@given(
    place=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="?#\\"), min_size=1, max_size=12),
    limit=st.integers(-1, 3),
)
async def test_a_path_and_a_query_are_answered_as_fastapi_answers_them(place: str, limit: int) -> None:
    for path, query in ((f"/places/{place}", {}), ("/counted", {"limit": str(limit)}), ("/counted", {"limit": place})):
        ours, theirs = await both("GET", path, params=query, headers={"tag": "a"})
        assert ours == theirs


@pytest.mark.parametrize(
    ("path", "body", "solved"),
    [
        (f"/places/{PLACE}/orders", {"count": 3}, []),
        (f"/places/{PLACE}/orders", {"count": 0}, ["order"]),
        ("/places/none/orders", {"count": 3}, ["order"]),
        ("/either", {"code": "1"}, []),
        ("/embedded", {"name": "x"}, ["embedded"]),
        ("/answered", {"count": 3}, ["answered"]),
    ],
)
async def test_what_fits_is_found_here_and_fastapi_is_asked_for_all_else(path: str, body: dict[str, Any], solved: list[str]) -> None:
    Counting.solved.clear()
    ours, theirs = await both("POST", path, json=body)
    assert ours == theirs
    assert Counting.solved == solved
