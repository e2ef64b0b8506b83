"""Searching and indexing on a real Elasticsearch."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from compose.local.elasticsearch import Elasticsearch
from contracts.events import ShareState
from contracts.roles import NOBODY
from services.search import service
from services.search.index import Index, IndexAway
from services.search.models import Kind
from tests.search.conftest import dataset, find, job, member, names, share, shares_are, shares_stay_fresh
from tests.world import OURS, THEIRS, World, Worlds, agent, reason

ELSEWHERE = UUID("01900000-0000-7000-8000-00000000000e")
PATIENCE_S = 30.0


# Finding


@pytest.mark.parametrize(
    "query",
    ["tumour", "TUMOUR", "tumours", "images", "resonance", "munchen", "München", "mun", "agnet", "cohort 2024", "wdbc", "train_v2"],
)
async def test_a_dataset_is_found_by_words_and_parts_of_words(world: World, query: str) -> None:
    await world.hear(
        dataset("Tumour imaging wdbc_train-v2", description="Magnetic resonance images of München's cohort of 2024"),
        dataset("Unrelated", description="Nothing of the kind"),
    )
    assert await names(world, query, member(OURS)) == ["Tumour imaging wdbc_train-v2"]


async def test_a_part_of_a_word_is_found_and_a_word_that_is_nowhere_is_not(world: World) -> None:
    await world.hear(dataset("Magnetic resonance"))
    assert await names(world, "agneti", member(OURS)) == ["Magnetic resonance"]
    assert await names(world, "zebra", member(OURS)) == []
    assert await names(world, "the of and", member(OURS)) == []


async def test_a_word_of_the_name_counts_more_than_one_of_the_description(world: World) -> None:
    await world.hear(dataset("first", description="about lungs"), dataset("lungs", description="second"), job("lungs and more"))
    found = await find(world, "lungs", member(OURS))
    assert [item["name"] for item in found["items"]][-1] == "first"
    assert found["total"] == 3
    assert {item["kind"] for item in found["items"]} == {"datasets", "jobs"}


async def test_a_kind_and_a_project_narrow_the_search(world: World) -> None:
    await world.hear(dataset("heart"), job("heart job"), dataset("heart of theirs", THEIRS))
    everything = member(OURS, THEIRS)
    assert await names(world, "heart", everything, kind="jobs") == ["heart job"]
    assert set(await names(world, "heart", everything, kind="datasets")) == {"heart", "heart of theirs"}
    assert await names(world, "heart", everything, project_id=str(THEIRS)) == ["heart of theirs"]
    assert await names(world, "heart", everything, project_id=str(ELSEWHERE)) == []


async def test_what_was_found_is_shown_with_its_words_marked_and_its_markup_made_harmless(world: World) -> None:
    fact = dataset("liver <script>", description="scans of the liver " + "and more " * 60)
    await world.hear(fact)
    (item,) = (await find(world, "liver", member(OURS)))["items"]
    assert (item["id"], item["project_id"], item["kind"]) == (str(fact.dataset_id), str(OURS), "datasets")
    assert item["highlight"]["name"] == ["<em>liver</em> &lt;script&gt;"]
    (part,) = item["highlight"]["description"]
    assert "<em>liver</em>" in part
    assert len(part) < 250


async def test_results_come_page_by_page_each_once(world: World) -> None:
    made = [dataset(f"kidney {number}") for number in range(7)]
    await world.hear(*made)
    seen: list[str] = []
    more: dict[str, Any] = {}
    while True:
        page = await find(world, "kidney", member(OURS), limit=3, **more)
        assert page["total"] == 7
        seen += [item["id"] for item in page["items"]]
        if page["next"] is None:
            break
        more = {"after": page["next"]}
    assert sorted(seen) == sorted(str(fact.dataset_id) for fact in made)
    assert len(seen) == 7


@pytest.mark.parametrize("cursor", ["x", "W10", "WzFd", "WyJhIiwiYiJd", "W3RydWUsImIiXQ", "WzEsMl0"])
async def test_a_cursor_that_was_not_given_is_refused(world: World, cursor: str) -> None:
    shares_are(world)
    answer = await world.get("/search", member(OURS), params={"q": "a", "after": cursor})
    assert (answer.status_code, reason(answer)) == (422, "invalid-cursor")


@pytest.mark.parametrize("query", ["", " ", "x" * 201, "x" * 2000, "a\0b"])
async def test_a_query_that_makes_no_sense_is_refused(world: World, query: str) -> None:
    shares_are(world)
    answer = await world.get("/search", member(OURS), params={"q": query})
    assert answer.status_code == 422


@pytest.mark.parametrize("query", ['"', "*", "name:x OR deleted:true", "{}", "\\", "(((", "a AND", "~1", "<>&", "\U0001d518", "😀" * 50])
async def test_no_query_is_syntax(world: World, query: str) -> None:
    await world.hear(dataset("theirs", THEIRS))
    assert (await find(world, query, member(OURS)))["total"] == 0


async def test_only_people_search(world: World) -> None:
    shares_are(world)
    for actor, status in ((NOBODY, 401), (agent(), 403)):
        assert (await world.get("/search", actor, params={"q": "a"})).status_code == status


# Who finds what


async def test_nobody_finds_what_lies_in_a_project_of_others(world: World) -> None:
    await world.hear(dataset("brain", THEIRS), job("brain", THEIRS))
    for actor in (member(OURS), member()):
        found = await find(world, "brain", actor)
        assert (found["items"], found["total"], found["next"]) == ([], 0, None)


async def test_an_answer_is_the_same_whatever_others_hold(world: World) -> None:
    ours = [dataset("brain stem", description="slices of brain"), dataset("brain"), job("segment brain")]
    await world.hear(*ours)
    queries = ("brain", "brain stem", "slices", "rain", "stems of brains")
    before = [await find(world, query, member(OURS)) for query in queries]
    await world.hear(*[dataset("brain stem slices " * number, THEIRS, description="brain " * 50) for number in range(1, 6)])
    await world.hear(*[job("brain", THEIRS) for _ in range(20)])
    after = [await find(world, query, member(OURS)) for query in queries]
    assert before == after
    assert before[0]["total"] == 3


async def test_a_dataset_is_found_where_it_is_shared_while_it_is_shared(world: World) -> None:
    fact = dataset("spine", THEIRS)
    await world.hear(fact, dataset("spine of nobody", THEIRS), job("spine", THEIRS))
    offered = share(fact, OURS, ShareState.OFFERED, version=1)
    shares_are(world, offered)
    assert await names(world, "spine", member(OURS)) == []
    shares_are(world, share(fact, OURS, version=2, share_id=offered.share_id))
    assert await names(world, "spine", member(OURS)) == ["spine"]
    assert await names(world, "spine", member(OURS), project_id=str(OURS)) == ["spine"]
    assert await names(world, "spine", member(ELSEWHERE)) == []
    shares_are(world, share(fact, OURS, ShareState.WITHDRAWN, version=3, share_id=offered.share_id))
    assert await names(world, "spine", member(OURS)) == []


async def test_without_fresh_shares_nothing_is_answered(world: World) -> None:
    await world.hear(dataset("skin"))
    shares_are(world, age_s=1.5)
    answer = await world.get("/search", member(OURS), params={"q": "skin"})
    assert (answer.status_code, reason(answer), answer.headers["Retry-After"]) == (503, "cannot-decide", "1")


async def test_a_share_that_the_caller_has_seen_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fact = dataset("nerve", THEIRS)
    await world.hear(fact)
    accepted = share(fact, OURS, version=2)
    after = {"Hortus-After": f"shares:{accepted.share_id}:2"}
    library = world.runtime.extra["library"]
    await library.index.refresh(list(Kind))
    waits, reached = asyncio.Event(), library.shares.reached

    async def patiently(wanted: Any) -> bool:
        waits.set()
        return bool(await reached(wanted, PATIENCE_S))

    with monkeypatch.context() as patch:
        patch.setattr(library.shares, "reached", patiently)
        async with shares_stay_fresh(world):
            asked = asyncio.create_task(world.get("/search", member(OURS), params={"q": "nerve"}, headers=after))
            await waits.wait()
            await asyncio.sleep(0.1)
            assert not asked.done()
            shares_are(world, accepted)
            assert [item["name"] for item in (await asked).json()["items"]] == ["nerve"]
    shares_are(world)
    late = await world.get("/search", member(OURS), params={"q": "nerve"}, headers={"Hortus-After": f"shares:{accepted.share_id}:9"})
    assert (late.status_code, reason(late)) == (503, "cannot-decide")


async def test_what_the_caller_just_did_is_found_at_once(world: World) -> None:
    for number in range(5):
        fact = dataset(f"fresh {number}")
        await world.hear(fact)
        after = {"Hortus-After": f"datasets:{fact.dataset_id}:1"}
        async with shares_stay_fresh(world):
            answer = await world.get("/search", member(OURS), params={"q": f"fresh {number}"}, headers=after)
        assert answer.json()["items"][0]["id"] == str(fact.dataset_id)


# Filling


async def test_a_fact_heard_twice_or_late_changes_nothing(world: World) -> None:
    first = dataset("old name")
    second = dataset("new name", dataset_id=first.dataset_id, version=2)
    await world.hear(second, first)
    assert await names(world, "name", member(OURS)) == ["new name"]
    await world.sql("DELETE FROM inbox")
    await world.hear(first, second, second)
    assert await names(world, "name", member(OURS)) == ["new name"]
    assert await names(world, "old", member(OURS)) == []


async def test_a_deleted_dataset_is_found_no_more_and_does_not_come_back(world: World) -> None:
    first = dataset("gone soon")
    await world.hear(first, dataset("gone soon", dataset_id=first.dataset_id, version=2, deleted=True))
    await world.sql("DELETE FROM inbox")
    await world.hear(first)
    assert await names(world, "gone", member(OURS)) == []


async def test_what_was_erased_from_the_topic_is_erased_from_the_index(world: World) -> None:
    fact = dataset("erased")
    await world.hear(fact)
    async with world.work() as uow:
        await world.spec.hears.erasers["datasets"](str(fact.dataset_id), uow)
    assert await names(world, "erased", member(OURS)) == []


async def test_facts_of_one_batch_are_written_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = Index.write

    async def counted(self: Index, documents: Any) -> None:
        written.append(len(documents))
        await write(self, documents)

    monkeypatch.setattr(Index, "write", counted)
    async with world.work() as uow:
        for number in range(50):
            await world.spec.hears.handlers["dataset.v1"](dataset(f"batch {number}"), uow)
    assert written == [50]
    assert (await find(world, "batch", member(OURS)))["total"] == 50


@pytest.fixture
def unattended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks after the indexes but the test."""

    async def rests(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(service, "keep_indexes", rests)


@pytest.mark.usefixtures("unattended")
async def test_while_the_index_is_away_facts_wait_and_searches_say_so(
    world: World, elasticsearch: Elasticsearch, settings: dict[str, Any]
) -> None:
    prefix = settings["index_prefix"]
    await asyncio.to_thread(elasticsearch.request, "DELETE", f"/{prefix}-datasets-v1")
    with pytest.raises(IndexAway):
        await world.try_hear(dataset("too early"))
    assert await world.sql("SELECT 1 FROM inbox") == []
    assert await world.sql("SELECT 1 FROM outbox") == [], "no dead letter"
    async with shares_stay_fresh(world):
        answer = await world.get("/search", member(OURS), params={"q": "early"})
    assert (answer.status_code, reason(answer)) == (503, "search-is-away")


@pytest.mark.usefixtures("unattended")
async def test_a_lost_index_is_made_again_and_filled_from_the_beginning(
    world: World, elasticsearch: Elasticsearch, settings: dict[str, Any]
) -> None:
    await world.hear(dataset("liver"), job("liver job"))
    for topic in ("datasets", "jobs"):
        await world.sql("INSERT INTO partitions_heard (topic, partition, awake_at) VALUES (:topic, 0, now())", topic=topic)
    await asyncio.to_thread(elasticsearch.request, "DELETE", f"/{settings['index_prefix']}-datasets-v1")
    joined: list[None] = []
    library = world.runtime.extra["library"]
    assert await service.look_after(library, lambda: joined.append(None))
    assert len(joined) == 1
    assert [row.topic for row in await world.sql("SELECT topic FROM inbox")] == ["jobs"]
    asleep = await world.sql("SELECT topic FROM partitions_heard WHERE awake_at < now() - interval '2 days'")
    assert [row.topic for row in asleep] == ["datasets"]
    assert await names(world, "liver", member(OURS)) == ["liver job"]
    assert await service.look_after(library, lambda: joined.append(None))
    assert len(joined) == 1, "what is there is left alone"


async def test_two_replicas_make_one_index_and_start_over_once(
    world: World, worlds: Worlds, elasticsearch: Elasticsearch, settings: dict[str, Any]
) -> None:
    second = await worlds.open("search", beside=world, **settings)
    libraries = [each.runtime.extra["library"] for each in (world, second)]
    before = dict(libraries[0].seen)
    assert libraries[1].seen == before
    for kind in Kind:
        await asyncio.to_thread(elasticsearch.request, "DELETE", f"/{settings['index_prefix']}-{kind}-v1")

    async def look(number: int) -> bool:
        return await service.look_after(libraries[number], lambda: None)

    assert all(await asyncio.gather(look(0), look(1)))
    assert libraries[0].seen == libraries[1].seen
    assert all(libraries[0].seen[kind] != before[kind] for kind in Kind)
    await world.hear(dataset("both"))
    assert await names(second, "both", member(OURS)) == ["both"]


async def test_the_index_takes_no_certificate_but_ones_of_the_services(
    elasticsearch: Elasticsearch, settings: dict[str, Any], world: World
) -> None:
    fresh = await asyncio.to_thread(elasticsearch.request, "GET", "/_cat/indices", None, settings["tls_dir"])
    assert fresh[0] == 200
    outside = await asyncio.to_thread(elasticsearch.request, "PUT", "/other-index", None, settings["tls_dir"])
    assert outside[0] == 403


async def test_an_answer_names_what_the_service_waits_for(world: World) -> None:
    shares_are(world)
    library = world.runtime.extra["library"]
    assert library.missing() == []
    broken = service.Library(library.engine, library.index, library.shares)
    assert broken.missing() == ["index: not looked at yet"]
    assert str(uuid7()) not in str(broken.missing())
