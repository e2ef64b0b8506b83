"""A change that waits in a service while its caller leaves, or the gateway cuts it, is not made: over real TLS, behind a real lock."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import Body, Response
from sqlalchemy import text
from uuid_utils.compat import uuid7

from chassis import tls
from chassis.app import OperatorsOnly, Runtime, Server, Spec, create_app, https_server
from chassis.errors import NotFound, problem_response
from chassis.guard import LaterUow, Uow, doors, may
from chassis.hears import Hears
from chassis.settings import Settings
from contracts.policy import API, Action, Service
from contracts.roles import Actor
from tests.chassis.conftest import Side, membership, until
from tests.chassis.test_guard import as_, count
from tests.serving import ended
from tests.world import owner, person

PROJECT = UUID("01900000-0000-7000-8000-0000000000aa")
LARGE = 300_000
EFFECT = text("INSERT INTO effect (key, version) VALUES (:key, 1)")
LOCK = text("LOCK TABLE effect IN EXCLUSIVE MODE")
WAITS = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'effect'::regclass"

router = doors(Service.PROJECTS)


@router.post("/projects", status_code=201, dependencies=[may(Action.PROJECT_CREATE)])
async def create(name: Annotated[str, Body(embed=True)], uow: Uow) -> dict[str, str]:
    """A change with an effect, a fact and a record."""
    await uow.session.execute(EFFECT, {"key": name[:9]})
    uow.emit(membership(1, uuid7()))
    return {"name": name[:9]}


@router.patch("/projects/{project_id}", dependencies=[may(Action.PROJECT_CHANGE)])
async def change(project_id: UUID, later: LaterUow) -> dict[str, str]:
    """A change that opens its transaction late."""
    uow = await later()
    await uow.session.execute(EFFECT, {"key": "late"})
    return {"project_id": str(project_id)}


@router.delete("/projects/{project_id}/members/{user_id}", dependencies=[may(Action.MEMBER_REMOVE)])
async def refuse(project_id: UUID, user_id: UUID, uow: Uow) -> Response:
    """A refusal that counts."""
    await uow.session.execute(EFFECT, {"key": "counted"})
    refusal = NotFound()
    uow.refuse(refusal)
    return problem_response(refusal)


@router.get("/projects", dependencies=[may(Action.PROJECT_LIST)])
async def look(uow: Uow) -> dict[str, str]:
    """A look that leaves a trace."""
    await uow.session.execute(EFFECT, {"key": "look"})
    return {}


@dataclass
class Place:
    """A service that listens, and its database."""

    side: Side
    server: Server

    async def connects(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return await asyncio.open_connection("localhost", port, ssl=tls.client_context(self.side.settings.tls_dir.parent / "gateway"))

    @contextlib.asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Whoever wants to have an effect waits."""
        async with self.side.engine.connect() as connection:
            await connection.execute(LOCK)
            yield
            await connection.rollback()

    async def waits(self) -> bool:
        return bool((await self.side.sql(WAITS))[0][0])

    async def stored(self) -> list[int]:
        return [await count(self.side, table) for table in ("effect", "outbox", "audit_outbox", "idempotency")]


@pytest.fixture
async def place(side: Callable[..., Any]) -> AsyncIterator[Place]:
    made: Side = await side("projects", listen="127.0.0.1:0")
    runtime = Runtime(made.settings, made.engine, frozenset())
    app = create_app(Spec(Service.PROJECTS, Settings, router, Hears("projects")), runtime)
    domain = made.settings.trust_domain
    peers = tls.protocol({tls.service_identity(domain, "gateway")})
    server = https_server(OperatorsOnly(app, domain), made.settings, peers)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield Place(made, server)
    await ended(server, serving)


def asked(method: str, path: str, actor: Actor, body: dict[str, str] | None = None, **headers: str) -> bytes:
    content = json.dumps(body or {}).encode()
    lines = [f"{method} {API}{path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in as_(actor, **headers).items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def aborts(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def closes(writer: asyncio.StreamWriter) -> None:
    writer.close()


def says_no_more(writer: asyncio.StreamWriter) -> None:
    """Half of the connection ends; over TLS no answer can come any more, either."""
    writer.get_extra_info("socket")._sock.shutdown(socket.SHUT_WR)


async def left_while_it_waited(place: Place, request: bytes, leaves: Callable[[asyncio.StreamWriter], None] = aborts) -> None:
    """Somebody asks, and leaves while that waits for a lock; returns when the service has done with it."""
    async with place.busy():
        _, writer = await place.connects()
        writer.write(request)
        await until(place.waits)
        leaves(writer)
        await until(lambda: not place.server.server_state.connections)
    await until(lambda: not place.server.server_state.tasks)
    writer.close()


@pytest.mark.parametrize("leaves", [aborts, closes, says_no_more])
async def test_a_change_whose_caller_left_while_it_waited_is_not_made(place: Place, leaves: Callable[[asyncio.StreamWriter], None]) -> None:
    await left_while_it_waited(place, asked("POST", "/projects", person(), {"name": "mri"}), leaves)
    assert await place.stored() == [0, 0, 0, 0]


async def test_that_is_noticed_behind_a_large_body_too(place: Place) -> None:
    await left_while_it_waited(place, asked("POST", "/projects", person(), {"name": "x" * LARGE}))
    assert await place.stored() == [0, 0, 0, 0]


async def test_a_transaction_that_was_opened_late_is_rolled_back_too(place: Place) -> None:
    await left_while_it_waited(place, asked("PATCH", f"/projects/{PROJECT}", owner(PROJECT)))
    assert await place.stored() == [0, 0, 0, 0]


async def test_the_key_of_a_change_that_was_not_made_may_be_used_again(place: Place) -> None:
    request = asked("POST", "/projects", person(UUID(int=1)), {"name": "mri"}, Idempotency_Key="k1")
    await left_while_it_waited(place, request)
    assert await place.stored() == [0, 0, 0, 0]
    reader, writer = await place.connects()
    writer.write(request)
    assert (await reader.readline()).startswith(b"HTTP/1.1 201")
    assert await place.stored() == [1, 1, 1, 1]
    writer.close()


async def test_a_caller_who_stays_is_answered_however_long_it_took(place: Place) -> None:
    reader, writer = await place.connects()
    async with place.busy():
        writer.write(asked("POST", "/projects", person(), {"name": "x" * LARGE}))
        await until(place.waits)
    assert (await reader.readline()).startswith(b"HTTP/1.1 201")
    assert await place.stored() == [1, 1, 1, 0]
    writer.close()


async def test_a_try_that_is_refused_counts_although_its_caller_left(place: Place) -> None:
    """Otherwise whoever guesses would hang up before it is counted."""
    await left_while_it_waited(place, asked("DELETE", f"/projects/{PROJECT}/members/{uuid7()}", owner(PROJECT)))
    assert await place.stored() == [1, 0, 1, 0]


async def test_what_a_look_left_stays_although_its_caller_left(place: Place) -> None:
    await left_while_it_waited(place, asked("GET", "/projects", person()))
    assert await place.stored() == [1, 0, 0, 0]
