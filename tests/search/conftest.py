"""Search over a real Elasticsearch; the place of the shares topic is taken by the test, which says what is on it and how fresh."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from compose.local.elasticsearch import Elasticsearch
from compose.local.pki import Pki
from contracts.events import Dataset, DatasetKind, Job, RunState, Share, ShareState
from contracts.roles import Actor, Role
from tests.world import OURS, World, Worlds, person

PREFIX = "hortus-test"


@pytest.fixture(scope="session")
def elasticsearch(new_home: Callable[[str], Path]) -> Iterator[Elasticsearch]:
    home = new_home("elasticsearch")
    pki = Pki.create(home)
    server = Elasticsearch(home, pki)
    try:
        server.start()
        pki.issue_service_certificate("search", server.home.tls_folder("search"))
        yield server
    finally:
        server.stop()


@pytest.fixture
def settings(elasticsearch: Elasticsearch) -> dict[str, Any]:
    return {
        "elasticsearch_url": elasticsearch.url,
        "elasticsearch_password_file": elasticsearch.password_file,
        "tls_dir": elasticsearch.home.tls_folder("search"),
        "index_prefix": PREFIX,
    }


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any], elasticsearch: Elasticsearch) -> AsyncIterator[World]:
    world = await worlds.open("search", **settings)
    library = world.runtime.extra["library"]
    async with asyncio.timeout(60):  # the first index takes long on a node that has just begun; whoever looks after it tries again
        while library.trouble:
            await asyncio.sleep(0.02)
    yield world
    forget = f"/{PREFIX}-*/_delete_by_query?refresh=true&conflicts=proceed"
    status, _ = await asyncio.to_thread(elasticsearch.request, "POST", forget, b'{"query": {"match_all": {}}}')
    assert status == 200


def dataset(
    name: str, project_id: UUID = OURS, *, description: str = "", version: int = 1, dataset_id: UUID | None = None, deleted: bool = False
) -> Dataset:
    return Dataset(
        version=version,
        dataset_id=dataset_id or uuid7(),
        project_id=project_id,
        name=name,
        kind=DatasetKind.FILES,
        description=description,
        files=0,
        size=0,
        origins=(),
        deleted=deleted,
    )


def job(name: str, project_id: UUID = OURS, *, version: int = 1) -> Job:
    return Job(
        version=version,
        job_id=uuid7(),
        project_id=project_id,
        name=name,
        submitted_by=uuid7(),
        state=RunState.QUEUED,
        inputs=(),
        output_dataset_id=uuid7(),
        submitted_at="2026-01-01T00:00:00Z",
    )


def share(of: Dataset, target: UUID, state: ShareState = ShareState.ACCEPTED, version: int = 2, share_id: UUID | None = None) -> Share:
    return Share(
        version=version,
        share_id=share_id or uuid7(),
        dataset_id=of.dataset_id,
        project_id=of.project_id,
        target_project_id=target,
        state=state,
    )


def member(*projects: UUID) -> Actor:
    return person(projects=dict.fromkeys(projects, Role.DATA_SCIENTIST))


def shares_are(world: World, *facts: Share, age_s: float = 0.0) -> None:
    """What is on the shares topic, read to a position ``age_s`` old in every partition."""
    knowledge = world.runtime.extra["library"].shares.knowledge
    for fact in facts:
        knowledge.apply(fact)
    read = time.monotonic() - age_s
    knowledge.asked(dict.fromkeys(knowledge.partitions, 0), read)
    for topic, partition in knowledge.partitions * 2:  # the second is proved to be no older
        knowledge.position(topic, partition, 0, time.time() - age_s, read)
    knowledge.sweep(time.time(), time.monotonic())


async def find(world: World, query: str, actor: Actor, **more: Any) -> Any:
    """Search when everything that was heard can be found, with the shares fresh."""
    await refresh(world)
    return await ask(world, query, actor, **more)


async def refresh(world: World) -> None:
    """Let everything that was heard be found."""
    library = world.runtime.extra["library"]
    await library.index.refresh(list(library.seen))


@contextlib.asynccontextmanager
async def shares_stay_fresh(world: World) -> AsyncIterator[None]:
    """Meanwhile the shares are read on and on, as where relays write positions: a machine that stands still makes them old for a moment."""

    async def read_on() -> None:
        while True:
            await asyncio.sleep(0.1)
            shares_are(world)

    shares_are(world)
    reading = asyncio.create_task(read_on())
    try:
        yield
    finally:
        reading.cancel()
        await asyncio.wait({reading})


async def ask(world: World, query: str, actor: Actor, **more: Any) -> Any:
    """Search with the shares fresh."""
    async with shares_stay_fresh(world):
        answer = await world.get("/search", actor, params={"q": query, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def names(world: World, query: str, actor: Actor, **more: Any) -> list[str]:
    return [item["name"] for item in (await find(world, query, actor, **more))["items"]]
