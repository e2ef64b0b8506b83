"""Projects that are deleted, in search: their documents go, and none comes back."""

import asyncio
import json

import pytest

from compose.local.elasticsearch import Elasticsearch
from contracts.events import Purged, PurgeStep
from services.search import domain, service
from services.search.index import Index
from tests.deletions import CLOSING, DELETED, PURGING, purge, purge_slice
from tests.search.conftest import PREFIX, dataset, job, member, names
from tests.world import OURS, THEIRS, World


@pytest.fixture
def expunged(monkeypatch: pytest.MonkeyPatch) -> list[Index]:
    """The index's files are not written anew, which takes half a minute (`tests/e2e/test_deleted_project`); how often that was asked for."""
    asked: list[Index] = []

    async def expunge(index: Index) -> None:
        asked.append(index)

    monkeypatch.setattr(Index, "expunge", expunge)
    return asked


async def documents(elasticsearch: Elasticsearch) -> list[dict[str, object]]:
    """Everything that the indexes hold."""
    await asyncio.to_thread(elasticsearch.request, "POST", f"/{PREFIX}-*/_refresh", b"")
    status, body = await asyncio.to_thread(elasticsearch.request, "POST", f"/{PREFIX}-*/_search?size=1000", b'{"query": {"match_all": {}}}')
    assert status == 200
    return [hit["_source"] for hit in json.loads(body)["hits"]["hits"]]


async def test_the_documents_of_a_deleted_project_go_in_slices_and_those_of_others_stay(
    world: World, elasticsearch: Elasticsearch, monkeypatch: pytest.MonkeyPatch, expunged: list[Index]
) -> None:
    monkeypatch.setattr(service, "PURGED_AT_ONCE", 2)
    ours = [dataset("zebra one", description="zebra"), dataset("zebra two"), job("zebra three")]
    theirs = dataset("zebra four", THEIRS)
    await world.hear(*ours, theirs, CLOSING)
    assert len(await names(world, "zebra", member(OURS, THEIRS))) == 4
    await world.hear(PURGING)
    await purge(world)
    assert await names(world, "zebra", member(OURS, THEIRS)) == ["zebra four"]
    said = [fact for fact in await world.said() if isinstance(fact, Purged)]
    assert [(fact.step, fact.removed) for fact in said] == [(PurgeStep.CLOSED, {}), (PurgeStep.PURGED, {"documents": 3})]
    left = [document for document in await documents(elasticsearch) if document["id"] != str(theirs.dataset_id)]
    assert {(document["name"], document["description"], document.get("project_id")) for document in left} == {("", "", None)}
    assert len(expunged) == 2  # once more after it was killed at the last commit


async def test_a_purge_that_takes_long_holds_no_transaction_meanwhile_and_looks_once_more_at_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = world.runtime.extra["library"]
    go_on = asyncio.Event()

    async def expunge(_index: Index) -> None:
        await go_on.wait()

    monkeypatch.setattr(Index, "expunge", expunge)
    monkeypatch.setattr(service, "EXPUNGE_LOOK_S", 0.01)
    await world.hear(CLOSING, PURGING)
    for _ in range(3):
        assert await purge_slice(world)
    assert [fact.step for fact in await world.said() if isinstance(fact, Purged)] == [PurgeStep.CLOSED]
    await library.index.write([domain.dataset_document(dataset("given up on, and here all the same"))])
    go_on.set()
    await purge(world)
    (fact,) = [fact for fact in await world.said() if isinstance(fact, Purged)]
    assert (fact.step, fact.removed) == (PurgeStep.PURGED, {"documents": 1})
    assert library.expunging == {}


async def test_nothing_late_comes_back(world: World, elasticsearch: Elasticsearch, expunged: list[Index]) -> None:
    old = dataset("zebra one")
    await world.hear(old, CLOSING, PURGING)
    await purge(world)
    assert expunged
    await world.said()
    await world.sql("DELETE FROM inbox")
    await world.hear(old, old.model_copy(update={"version": 2, "deleted": True}), dataset("zebra two"), job("zebra three"), DELETED)
    await purge(world)
    assert await names(world, "zebra", member(OURS)) == []
    assert await world.said() == []
    assert {document["name"] for document in await documents(elasticsearch)} == {""}


async def test_a_job_that_went_with_its_project_is_found_no_more(world: World) -> None:
    gone = job("zebra")
    await world.hear(gone)
    await world.hear(gone.model_copy(update={"version": 2, "name": "", "deleted": True}))
    assert await names(world, "zebra", member(OURS)) == []
