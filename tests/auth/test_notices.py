"""Letters about break-glass in a project, written when its fact is heard."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from contracts.events import BreakGlass
from tests.auth.people import join
from tests.world import World

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def fact(opener: UUID, *owners: UUID, version: int = 1, unreviewed: bool = False) -> BreakGlass:
    return BreakGlass(
        version=version,
        break_glass_id=uuid7(),
        project_id=uuid7(),
        user_id=opener,
        owners=owners,
        opened_at=AT,
        ends_at=AT + timedelta(hours=1),
        ended_at=None if version == 1 else AT + timedelta(hours=1),
        review_due_at=AT + timedelta(hours=73),
        reviewed_at=None,
        verdict=None,
        unreviewed=unreviewed,
    )


async def written(world: World) -> list[dict[str, Any]]:
    """The letters that wait to be sent, opened."""
    rows = await world.sql("SELECT letter_id, sealed FROM letters ORDER BY letter_id")
    vault = world.runtime.extra["tools"].vault
    return [json.loads(vault.open_letter(bytes(row.sealed), row.letter_id)) for row in rows]


async def test_owners_and_auditors_are_written_to_when_an_administrator_opens_their_project(world: World, mailed: World) -> None:
    owner = await join(world, "ada@example.org")
    root = await join(world, "root@example.org", ["administrator"])
    await join(world, "watch@example.org", ["auditor"])
    await join(world, "eve@example.org")
    opened = fact(root.user_id, owner.user_id)
    await mailed.hear(opened)
    letters = await written(mailed)
    assert sorted(letter["address"] for letter in letters) == ["ada@example.org", "watch@example.org"]
    for letter in letters:
        assert letter["subject"] == "An administrator opened a project on Hortus in an emergency"
        assert f"The administrator {root.username} opened the project {opened.project_id}" in letter["text"]
        assert "until 2026-03-01 13:00 UTC" in letter["text"]
    await mailed.hear(opened)
    assert len(await written(mailed)) == 2


async def test_owners_and_auditors_are_written_to_when_an_administrator_appoints_an_owner(world: World, mailed: World) -> None:
    owner = await join(world, "ada@example.org")
    root = await join(world, "root@example.org", ["administrator"])
    await join(world, "watch@example.org", ["auditor"])
    appointed = fact(root.user_id, owner.user_id).model_copy(update={"appointed_id": owner.user_id})
    await mailed.hear(appointed)
    letters = await written(mailed)
    assert sorted(letter["address"] for letter in letters) == ["ada@example.org", "watch@example.org"]
    for letter in letters:
        assert letter["subject"] == "An administrator appointed a Data Owner of a project on Hortus"
        assert f"the administrator {root.username} made {owner.username} its Data Owner" in letter["text"]


async def test_they_are_written_to_again_when_nobody_reviewed_it_and_not_when_it_ended(world: World, mailed: World) -> None:
    owner = await join(world)
    root = await join(world, "root@example.org", ["administrator"])
    opened = fact(root.user_id, owner.user_id)
    await mailed.hear(opened)
    await mailed.hear(opened.model_copy(update={"version": 2, "ended_at": AT}))
    await mailed.hear(opened.model_copy(update={"version": 3, "ended_at": AT, "unreviewed": True}))
    await mailed.hear(opened.model_copy(update={"version": 4, "ended_at": AT, "reviewed_at": AT}))
    first, second = await written(mailed)
    assert "in an emergency" in first["subject"]
    assert second["subject"] == "Nobody has reviewed a break-glass on Hortus"


async def test_who_is_blocked_or_unknown_gets_no_letter(world: World, mailed: World) -> None:
    owner = await join(world)
    await world.sql("UPDATE users SET status = 'blocked' WHERE user_id = :id", id=owner.user_id)
    await mailed.hear(fact(uuid7(), owner.user_id, uuid7()))
    assert await written(mailed) == []


async def test_where_no_mail_is_configured_the_fact_is_heard_all_the_same(world: World) -> None:
    owner = await join(world)
    await world.hear(fact(uuid7(), owner.user_id))
    assert await world.sql("SELECT 1 FROM letters") == []
