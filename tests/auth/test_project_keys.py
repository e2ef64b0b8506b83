"""API keys that are bound to a project that is deleted."""

import pytest

from contracts.events import ApiKey, Purged, PurgeStep
from tests.auth.people import Account, join, present
from tests.auth.test_keys import make, of, own, wanted
from tests.deletions import CLOSING, DELETED, MARKER, PURGING, a_day_passes, purge, rows_with
from tests.world import OURS, World, reason


@pytest.fixture
async def account(world: World) -> Account:
    made = await present(await join(world))
    await world.said()
    return made


async def test_closing_ends_the_keys_of_the_project_alone_and_says_so_once(world: World, account: Account) -> None:
    bound = await make(world, account, name=MARKER, project_id=str(OURS))
    free = await make(world, account, name="everywhere")
    await world.said()
    await world.hear(CLOSING)
    said = await world.said()
    assert [(str(fact.key_id), fact.live) for fact in said if isinstance(fact, ApiKey)] == [(bound["key_id"], False)]
    assert [(fact.version, fact.step) for fact in said if isinstance(fact, Purged)] == [(1, PurgeStep.CLOSED)]
    assert await own(world, account) == [free["key_id"]]
    await world.sql("DELETE FROM inbox")
    await world.hear(CLOSING)
    assert await world.said() == []
    refused = await world.post("/keys", of(account), json=wanted(name="again", project_id=str(OURS)))
    assert (refused.status_code, reason(refused)) == (409, "project-is-being-deleted")


async def test_the_keys_of_a_deleted_project_go_and_their_topic_forgets_them_a_day_later(world: World, account: Account) -> None:
    bound = await make(world, account, name=MARKER, project_id=str(OURS))
    free = await make(world, account, name="everywhere")
    await world.hear(CLOSING, PURGING)
    await purge(world)
    (told,) = [fact for fact in await world.said() if isinstance(fact, Purged) and fact.version == 2]
    assert told.removed == {"api_keys": 1}
    assert await own(world, account) == [free["key_id"]]
    assert (await world.sql("SELECT count(*) FROM api_keys"))[0][0] == 1
    assert set(await rows_with(world, MARKER)) <= {"letters"}
    assert await world.erased() == []
    await a_day_passes(world)
    assert await world.erased() == [("credentials", bound["key_id"], 3)]
    await world.hear(DELETED)
    await purge(world)
    assert await world.said() == []


async def test_a_project_without_keys_is_purged_at_once(world: World) -> None:
    await world.hear(CLOSING, PURGING)
    await purge(world)
    assert [(fact.version, fact.removed) for fact in await world.said() if isinstance(fact, Purged)] == [(1, {}), (2, {})]
