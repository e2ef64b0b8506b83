"""Projects that are deleted, in search: their documents go, and none comes back."""

import asyncio
import json

import pytest

from compose.local.elasticsearch import Elasticsearch
from contracts.events import Purged, PurgeStep
from services.search import service
from tests.deletions import CLOSING, DELETED, PURGING, purge
from tests.search.conftest import PREFIX, dataset, job, member, names
from tests.world import OURS, THEIRS, World


async def documents(elasticsearch: Elasticsearch) -> list[dict[str, object]]:
    """Everything that the indexes hold."""
    await asyncio.to_thread(elasticsearch.request, "POST", f"/{PREFIX}-*/_refresh", b"")
    status, body = await asyncio.to_thread(elasticsearch.request, "POST", f"/{PREFIX}-*/_search?size=1000", b'{"query": {"match_all": {}}}')
    assert status == 200
    return [hit["_source"] for hit in json.loads(body)["hits"]["hits"]]


async def test_the_documents_of_a_deleted_project_go_in_slices_and_those_of_others_stay(
    world: World, elasticsearch: Elasticsearch, monkeypatch: pytest.MonkeyPatch
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


async def test_nothing_late_comes_back(world: World, elasticsearch: Elasticsearch) -> None:
    old = dataset("zebra one")
    await world.hear(old, CLOSING, PURGING)
    await purge(world)
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
