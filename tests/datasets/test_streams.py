"""Streams through a real HTTP server: back-pressure, cuts and lost connections as a client on the wire sees them."""

import asyncio
import contextlib
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from chassis.errors import TYPE_PREFIX
from contracts.roles import Actor
from services.datasets import vault
from tests.datasets.conftest import ADA, files_under, new_dataset, put, run_fact, shared
from tests.datasets.test_routes import identity, path
from tests.serving import ended
from tests.world import OURS, THEIRS, World, job, owner

PATIENCE_S = 15.0
HEAD_END = b"\r\n\r\n"
LONG = os.urandom(24 * vault.CHUNK)


@pytest.fixture
async def server(world: World) -> AsyncIterator[uvicorn.Server]:
    server = uvicorn.Server(
        uvicorn.Config(world.app, port=0, http="httptools", lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield server
    await ended(server, serving)


@pytest.fixture
def port(server: uvicorn.Server) -> int:
    number: int = server.servers[0].sockets[0].getsockname()[1]
    return number


async def connect(port: int, method: str, target: str, actor: Actor, *headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**16)
    lines = [
        f"{method} /api/v1{target} HTTP/1.1",
        "Host: service",
        *(f"{name}: {value}" for name, value in identity(actor).items()),
        *headers,
    ]
    writer.write("\r\n".join(lines).encode() + HEAD_END)
    return reader, writer


async def test_a_reader_that_stalls_under_a_withdrawn_share_gets_no_more_and_its_connection_ends(world: World, port: int) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", LONG)
    share_id = await shared(world, dataset_id)
    run = run_fact(dataset_id, project_id=THEIRS)
    await world.hear(run)
    target = f"/runs/{run.run_id}/inputs/{dataset_id}/files/a"
    reader, writer = await connect(port, "GET", target, job(run.run_id, 1, THEIRS))
    head = await reader.readuntil(HEAD_END)
    assert head.startswith(b"HTTP/1.1 200")
    assert f"content-length: {len(LONG)}".encode() in head.lower()
    got = await reader.readexactly(100_000)
    flights = world.runtime.extra["storage"].flights
    assert len(flights) == 1
    await world.delete(path(dataset_id, "shares", str(share_id)), owner(OURS))
    async with asyncio.timeout(PATIENCE_S):
        while len(flights):
            await asyncio.sleep(0.01)
    async with asyncio.timeout(PATIENCE_S):
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(2**16):
                got += piece
    assert got == LONG[: len(got)]
    assert len(got) < len(LONG) // 2
    writer.close()


async def test_a_download_whose_reader_leaves_stops_reading_the_store(world: World, port: int) -> None:
    dataset_id = await new_dataset(world)
    await put(world, dataset_id, "a", LONG)
    run = run_fact(dataset_id)
    await world.hear(run)
    reader, writer = await connect(port, "GET", f"/runs/{run.run_id}/inputs/{dataset_id}/files/a", job(run.run_id, 1, OURS))
    await reader.readuntil(HEAD_END)
    writer.transport.abort()
    async with asyncio.timeout(PATIENCE_S):
        while len(world.runtime.extra["storage"].flights):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("sent", [1_000, 5 * vault.CHUNK])
async def test_an_upload_whose_connection_is_lost_leaves_nothing(
    world: World, server: uvicorn.Server, port: int, blobs: Path, sent: int
) -> None:
    dataset_id = await new_dataset(world)
    await world.said()
    _, writer = await connect(port, "PUT", path(dataset_id, "files/a"), owner(OURS, ADA), f"Content-Length: {len(LONG)}")
    writer.write(LONG[:sent])
    await writer.drain()
    async with asyncio.timeout(PATIENCE_S):
        while not server.server_state.tasks:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while server.server_state.tasks:
            await asyncio.sleep(0.01)
    assert await world.said() == []
    assert await world.sql("SELECT 1 FROM files") == []
    assert list(files_under(blobs)) == []


async def test_a_chunked_upload_without_a_length_is_taken(world: World, port: int) -> None:
    dataset_id = await new_dataset(world)
    reader, writer = await connect(port, "PUT", path(dataset_id, "files/a"), owner(OURS, ADA), "Transfer-Encoding: chunked")
    for start in range(0, 300_000, 70_000):
        piece = LONG[start : min(start + 70_000, 300_000)]
        writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
    writer.write(b"0\r\n\r\n")
    assert (await reader.readuntil(HEAD_END)).startswith(b"HTTP/1.1 201")
    writer.close()
    assert (await world.get(path(dataset_id, "files/a"), owner(OURS))).content == LONG[:300_000]


async def test_a_large_file_goes_in_and_out_without_being_gathered_in_memory(world: World, port: int) -> None:
    dataset_id = await new_dataset(world)
    times = 12
    reader, writer = await connect(port, "PUT", path(dataset_id, "files/a"), owner(OURS, ADA), f"Content-Length: {times * len(LONG)}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(times):
        for start in range(0, len(LONG), vault.CHUNK):
            writer.write(LONG[start : start + vault.CHUNK])
            await writer.drain()
    assert (await reader.readuntil(HEAD_END)).startswith(b"HTTP/1.1 201")
    writer.close()
    reader, writer = await connect(port, "GET", path(dataset_id, "files/a"), owner(OURS))
    await reader.readuntil(HEAD_END)
    at = 0
    while at < times * len(LONG):
        piece = await reader.readexactly(min(vault.CHUNK, times * len(LONG) - at))
        assert piece == LONG[at % len(LONG) : at % len(LONG) + len(piece)]
        at += len(piece)
    writer.close()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 160 * 2**20, "288 MiB went through"


async def test_an_upload_that_is_refused_is_answered_before_its_body_is_read(world: World, port: int) -> None:
    dataset_id = await new_dataset(world)
    reader, writer = await connect(port, "PUT", path(dataset_id, "files/a%5Cb"), owner(OURS, ADA), f"Content-Length: {10**12}")
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(HEAD_END)
    assert head.startswith(b"HTTP/1.1 422")
    assert TYPE_PREFIX.encode() in await reader.read(200)
    writer.close()
