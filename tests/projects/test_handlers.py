from uuid import UUID

from uuid_utils.compat import uuid7

from contracts.events import USERS, UserStatus
from contracts.roles import Role
from tests.projects.people import found, user
from tests.world import World


async def people(world: World) -> list[tuple[UUID, str, str]]:
    return [tuple(row) for row in await world.sql("SELECT user_id, username, status FROM people ORDER BY username")]


async def test_people_are_known_as_auth_names_them(world: World) -> None:
    bob = uuid7()
    await world.hear(user("bob00000", bob, status=UserStatus.INVITED))
    await world.hear(user("bob00000", bob, status=UserStatus.ACTIVE, version=2))
    assert await people(world) == [(bob, "bob00000", "active")]
    assert await world.said() == []


async def test_a_fact_that_comes_twice_changes_nothing(world: World) -> None:
    bob = uuid7()
    fact = user("bob00000", bob)
    await world.hear(fact)
    before = await world.sql("SELECT *, xmin FROM people")
    await world.hear(fact)
    assert await world.sql("SELECT *, xmin FROM people") == before


async def test_an_older_fact_that_comes_late_changes_nothing(world: World) -> None:
    bob = uuid7()
    await world.hear(user("bob00000", bob, status=UserStatus.BLOCKED, version=3))
    await world.hear(user("bob00000", bob, status=UserStatus.ACTIVE, version=2))
    assert await people(world) == [(bob, "bob00000", "blocked")]


async def test_the_handler_itself_run_twice_leaves_the_same(world: World) -> None:
    from services.projects.handlers import forget_person, know_person  # noqa: PLC0415 - beside the inbox, as after a sweep

    bob = uuid7()
    for _ in range(2):
        async with world.work() as uow:
            await know_person(user("bob00000", bob), uow)
    assert await people(world) == [(bob, "bob00000", "active")]
    for _ in range(2):
        async with world.work() as uow:
            await forget_person(str(bob), uow)
    assert await people(world) == []
    assert USERS.name in world.spec.hears.erasers


async def test_a_blocked_persons_membership_stays(world: World) -> None:
    study = await found(world)
    bob = await study.add("bob00000")
    await world.said()
    await world.hear(user("bob00000", UUID(bob["user_id"]), status=UserStatus.BLOCKED, version=2))
    assert (await study.member(bob["user_id"])).role == Role.DATA_SCIENTIST
    assert await world.said() == []
