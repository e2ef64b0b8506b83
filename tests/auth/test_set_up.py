import asyncio
import secrets
from pathlib import Path
from typing import Any

import pyotp
import pytest
from sqlalchemy.exc import DBAPIError

from contracts.events import SigningKey, User, UserStatus
from contracts.roles import ClusterRole
from services.auth.app import set_up, tend
from services.auth.vault import BadMasterKey, token_hash
from tests.auth.people import PASSWORD, join
from tests.world import World, Worlds, reason


def token_of(world: World) -> str:
    path: Path = world.runtime.settings.setup_file
    return path.read_text().strip()


async def test_the_first_start_makes_a_key_and_invites_the_first_administrator(world: World) -> None:
    await set_up(world.runtime)
    key, invited = await world.said()
    assert isinstance(key, SigningKey)
    assert key.live
    assert "d" not in key.jwk
    assert isinstance(invited, User)
    assert (invited.username, invited.status, invited.cluster_roles) == (
        "admin000",
        UserStatus.INVITED,
        frozenset({ClusterRole.ADMINISTRATOR}),
    )
    assert world.runtime.settings.setup_file.stat().st_mode & 0o777 == 0o600
    assert (await world.sql("SELECT token_hash FROM invitations"))[0].token_hash == token_hash(token_of(world))
    assert [record["action"] for record in await world.recorded()] == ["signing-key.create", "administrator.invite"]


async def test_another_start_changes_nothing_while_the_token_is_open(world: World) -> None:
    await set_up(world.runtime)
    token = token_of(world)
    await world.said()
    await set_up(world.runtime)
    assert token_of(world) == token
    assert await world.said() == []


@pytest.mark.parametrize("lost", ["file", "expired", "other"])
async def test_a_start_puts_a_new_token_in_the_place_of_one_that_is_no_use(world: World, lost: str) -> None:
    await set_up(world.runtime)
    old = token_of(world)
    if lost == "file":
        world.runtime.settings.setup_file.unlink()
    elif lost == "expired":
        await world.sql("UPDATE invitations SET expires_at = now()")
    else:
        world.runtime.settings.setup_file.write_text("written before a crash, never committed\n")
    await world.said()
    await set_up(world.runtime)
    assert token_of(world) != old
    assert await world.said() == []
    refused = await world.post("/invitations/acceptance", json={"token": old, "password": PASSWORD})
    assert (refused.status_code, reason(refused)) == (404, "invitation-not-open")
    assert (await world.post("/invitations/acceptance", json={"token": token_of(world), "password": PASSWORD})).status_code == 200


async def test_replicas_that_start_together_agree_on_one_key_one_person_and_one_token(
    world: World, worlds: Worlds, settings: dict[str, Any]
) -> None:
    others = [await worlds.open("auth", beside=world, **settings) for _ in range(3)]
    await asyncio.gather(*[set_up(each.runtime) for each in (world, *others)])
    assert sorted(fact.type for fact in await world.said()) == ["signing-key.v1", "user.v1"]
    assert (await world.sql("SELECT count(*) FROM signing_keys"))[0][0] == 1
    assert (await world.sql("SELECT token_hash FROM invitations"))[0].token_hash == token_hash(token_of(world))


async def test_with_an_administrator_no_start_invites_and_the_file_goes(world: World) -> None:
    await set_up(world.runtime)
    await join(world, "ada@example.org", ["administrator"])
    await world.said()
    await set_up(world.runtime)
    assert await world.said() == []
    assert not world.runtime.settings.setup_file.exists()


async def test_the_first_administrators_token_has_one_winner(world: World) -> None:
    await set_up(world.runtime)
    token = token_of(world)
    accepted = await world.post("/invitations/acceptance", json={"token": token, "password": PASSWORD})
    code = pyotp.TOTP(accepted.json()["totp_secret"]).now()
    await world.said()
    answers = await asyncio.gather(*[world.post("/invitations/confirmation", json={"token": token, "code": code}) for _ in range(4)])
    assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404]
    assert [fact.version for fact in await world.said()] == [2]


async def test_a_service_with_another_master_key_does_not_set_up(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    await set_up(world.runtime)
    other = settings["master_key_file"].with_name("other.key")
    other.write_text(secrets.token_urlsafe(32))
    replica = await worlds.open("auth", beside=world, **settings | {"master_key_file": other})
    with pytest.raises(BadMasterKey):
        await set_up(replica.runtime)


async def test_without_a_master_key_the_service_does_not_start(worlds: Worlds, settings: dict[str, Any]) -> None:
    with pytest.raises(BadMasterKey):
        await worlds.open("auth", **settings | {"master_key_file": settings["master_key_file"].with_name("none")})


async def test_tending_sets_up_and_forgets_old_failures(world: World) -> None:
    await world.sql(
        "INSERT INTO attempts VALUES ('\\x01', 7, now() - interval '31 minutes', now() - interval '31 minutes'), ('\\x02', 7, now(), now())"
    )
    async with world.running(tend) as task:
        async with asyncio.timeout(10):
            while (await world.sql("SELECT count(*) FROM attempts"))[0][0] != 1:
                assert not task.done()
                await asyncio.sleep(0.02)
    assert world.runtime.settings.setup_file.exists()
    assert (await world.client.get("/readyz")).status_code == 200


async def test_the_service_is_not_ready_before_it_is_set_up(world: World, worlds: Worlds, settings: dict[str, Any]) -> None:
    await set_up(world.runtime)
    other = settings["master_key_file"].with_name("other.key")
    other.write_text(secrets.token_urlsafe(32))
    replica = await worlds.open("auth", beside=world, **settings | {"master_key_file": other})
    with pytest.raises(BadMasterKey):
        await tend(replica.runtime)
    answer = await replica.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["missing"][0].startswith("set-up: ")


async def test_the_role_that_serves_cannot_change_the_tables(world: World) -> None:
    for statement in ("DROP TABLE users", "ALTER TABLE users ADD COLUMN x int", "TRUNCATE users", "CREATE TABLE x (y int)"):
        with pytest.raises(DBAPIError):
            await world.sql(statement)


async def test_no_secret_lies_open_in_the_database(world: World) -> None:
    await set_up(world.runtime)
    ada = await join(world)
    rows = await world.sql("SELECT credentials::text AS row FROM credentials UNION ALL SELECT signing_keys::text FROM signing_keys")
    text = " ".join(row.row for row in rows)
    assert ada.totp.secret not in text
    assert PASSWORD not in text
    private = world.runtime.extra["tools"].vault.signing_key(*(await world.sql("SELECT key_id, sealed FROM signing_keys"))[0])
    assert private.to_dict()["d"] not in text
