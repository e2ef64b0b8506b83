"""What a project's Data Owners see of break-glass where they look anyway, without a letter: the numbers beside the project."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import event
from uuid_utils.compat import uuid7

from contracts.events import UserStatus
from contracts.policy import Action
from contracts.roles import Actor, ClusterRole, Role
from tests.projects.people import Study, found, user
from tests.projects.test_break_glass import REVIEW, ROOT, ended, opened, reviewed, root
from tests.world import World, auditor, owner, person, stranger

NOTHING = {"open": 0, "to_review": 0}
OPEN = {"open": 1, "to_review": 0}
OVER = {"open": 0, "to_review": 1}


@pytest.fixture
async def study(world: World) -> Study:
    study = await found(world)
    await world.hear(user("root0000", ROOT, cluster_roles=[ClusterRole.ADMINISTRATOR]))
    return study


def owner_of(*studies: Study) -> Actor:
    """The Data Owner of the first of these, and what the gateway knows of the others, where no path names a project."""
    return person(studies[0].ada, projects={each.project_id: Role.DATA_OWNER for each in studies})


async def told(study: Study, actor: Actor | None = None) -> Any:
    """What is told beside one project."""
    answer = await study.world.get(study.path, actor or study.owner)
    assert answer.status_code == 200, answer.text
    return answer.json()["break_glass"]


async def told_in_list(world: World, actor: Actor) -> dict[str, Any]:
    """What is told beside each project of a list, by its name."""
    return {each["name"]: each["break_glass"] for each in (await world.get("/projects", actor)).json()["items"]}


@asynccontextmanager
async def statements_about(world: World, table: str) -> AsyncIterator[list[str]]:
    """The statements that name a table, as they come."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, _values: Any, _context: Any, _many: bool) -> None:
        if table in statement:
            seen.append(statement)

    engine = world.runtime.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


async def test_an_owner_sees_at_once_that_their_project_is_open_and_until_it_is_reviewed(study: Study) -> None:
    world = study.world
    assert await told(study) == NOTHING
    before = await world.get(study.path, study.owner)
    made = await opened(study)
    after = await world.get(study.path, study.owner)
    assert (after.json()["break_glass"], await told_in_list(world, owner_of(study))) == (OPEN, {"wdbc": OPEN})
    assert after.headers["etag"] == before.headers["etag"], "the version of a project does not count it"
    await ended(study, made)
    assert (await told(study), await told_in_list(world, owner_of(study))) == (OVER, {"wdbc": OVER})
    await reviewed(study, made)
    assert (await told(study), await told_in_list(world, owner_of(study))) == (NOTHING, {"wdbc": NOTHING})


async def test_a_change_answers_what_a_look_shows(study: Study) -> None:
    world = study.world
    made = await world.post("/projects", person(study.ada), json={"name": "second"})
    second = made.json()
    at_second = owner(UUID(second["project_id"]), study.ada)
    assert (await world.get(f"/projects/{second['project_id']}", at_second)).json() == second
    await opened(study)
    version = (await world.get(study.path, study.owner)).json()["version"]
    changed = await world.patch(study.path, study.owner, json={"description": "Ours"}, version=version)
    archived = await world.post(f"{study.path}/archive", study.owner)
    assert [answer.json()["break_glass"] for answer in (changed, archived)] == [OPEN, OPEN]
    assert (await world.get(study.path, study.owner)).json() == archived.json()


async def test_one_whose_time_is_over_is_not_open_before_that_is_said(study: Study) -> None:
    await opened(study)
    await study.world.sql("UPDATE break_glass SET ends_at = clock_timestamp()")
    assert await told(study) == OVER


async def test_the_owner_s_own_review_ends_the_notice(study: Study) -> None:
    made = await opened(study)
    await ended(study, made)
    answer = await study.world.post(f"{study.path}/break-glass/{made['break_glass_id']}/review", study.owner, json=REVIEW)
    assert answer.status_code == 200, answer.text
    assert await told(study) == NOTHING


async def test_an_appointment_waits_for_the_review_of_somebody_else(study: Study) -> None:
    world = study.world
    bob, cyd = uuid7(), uuid7()
    await world.hear(user("bob00000", bob), user("cyd00000", cyd), user("ada00000", study.ada, status=UserStatus.DEACTIVATED, version=2))
    answer = await world.post("/owner-appointments", root(), json={"project": "wdbc", "username": "bob00000", "reason": "The owner left"})
    assert answer.status_code == 201, answer.text
    await world.post(f"{study.path}/members", study.as_owner(bob), json={"username": "cyd00000", "role": "data_owner"})
    assert [await told(study, study.as_owner(each)) for each in (bob, cyd)] == [NOTHING, OVER]


async def test_who_opened_a_project_and_owns_it_later_is_not_asked_for_the_review(study: Study) -> None:
    made = await opened(study)
    await ended(study, made)
    await study.world.post(f"{study.path}/members", study.owner, json={"username": "root0000", "role": "data_owner"})
    assert await told(study, study.as_owner(ROOT)) == NOTHING
    assert await told_in_list(study.world, person(ROOT, projects={study.project_id: Role.DATA_OWNER})) == {"wdbc": NOTHING}
    assert await told(study) == OVER


async def test_data_scientists_and_strangers_are_told_no_numbers(study: Study) -> None:
    world = study.world
    bob = UUID((await study.add("bob00000"))["user_id"])
    await opened(study)
    for scientist in (bob, ROOT):
        assert await told(study, study.as_scientist(scientist)) is None
        at_large = person(scientist, projects={study.project_id: Role.DATA_SCIENTIST})
        assert await told_in_list(world, at_large) == {"wdbc": None}
    lied = person(bob, projects={study.project_id: Role.DATA_OWNER})
    assert (await told(study, study.as_owner(bob)), await told_in_list(world, lied)) == (None, {"wdbc": None}), "their own row decides"
    assert (await world.get(study.path, stranger(study.project_id))).status_code == 404
    assert await told_in_list(world, person(projects={study.project_id: Role.DATA_OWNER})) == {}


async def test_an_api_key_that_may_not_list_break_glass_is_told_no_numbers(study: Study) -> None:
    await opened(study)
    reads = {Action.PROJECT_LIST.value, Action.PROJECT_READ.value}
    for scopes, expected in ((reads, None), (reads | {Action.PROJECT_BREAK_GLASS_LIST.value}, OPEN)):
        key = {"session_id": None, "key_id": uuid7(), "scopes": frozenset(scopes)}
        assert await told(study, study.owner.model_copy(update=key)) == expected
        assert await told_in_list(study.world, owner_of(study).model_copy(update=key)) == {"wdbc": expected}


async def test_a_list_of_projects_tells_each_its_own_numbers_in_one_statement(study: Study) -> None:
    world = study.world
    second, third = [await found(world, name, study.ada) for name in ("second", "third")]
    made = await opened(second, project="second")
    await ended(second, made)
    await opened(third, project="third")
    async with statements_about(world, "FROM break_glass") as seen:
        numbers = await told_in_list(world, owner_of(study, second, third))
    assert numbers == {"wdbc": NOTHING, "second": OVER, "third": OPEN}
    assert len(seen) == 1


async def test_whoever_lists_no_break_glass_costs_no_statement(study: Study) -> None:
    bob = UUID((await study.add("bob00000"))["user_id"])
    async with statements_about(study.world, "FROM break_glass") as seen:
        await told_in_list(study.world, person(bob, projects={study.project_id: Role.DATA_SCIENTIST}))
        await told(study, study.as_scientist(bob))
    assert seen == []


async def test_the_lists_show_what_is_not_reviewed_alone(study: Study) -> None:
    world = study.world
    first = await opened(study)
    await ended(study, first)
    await reviewed(study, first)
    second = await opened(study)

    async def listed(path: str, actor: Actor, reviewed: str) -> Sequence[str]:
        answer = await world.get(f"{path}?reviewed={reviewed}", actor)
        return [each["break_glass_id"] for each in answer.json()["items"]]

    for path, actor in (("/break-glass", auditor()), (f"{study.path}/break-glass", study.owner)):
        assert await listed(path, actor, "false") == [second["break_glass_id"]]
        assert await listed(path, actor, "true") == [first["break_glass_id"]]
        assert (await world.get(f"{path}?reviewed=perhaps", actor)).status_code == 422
