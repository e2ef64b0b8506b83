"""Projects that are deleted, in ca: no certificate counts, no name stays, and lists still say what was revoked."""

import pytest
from cryptography import x509

from contracts.events import TOPICS, Certificate, Purged, PurgeStep, RunState
from services.ca.app import forget
from services.ca.service import deletion, ending
from tests.ca.conftest import ADA, BOB, appears, csr, issued, membership, project, run, study
from tests.deletions import CLOSING, DELETED, PURGING, a_day_passes, purge, rows_with
from tests.world import OURS, THEIRS, World, owner, reason, scientist

NAME = "mri-study"
pytestmark = pytest.mark.usefixtures("settings")


async def filled(world: World) -> list[x509.Certificate]:
    """A project with certificates of both of its people and of a run."""
    await world.hear(*study())
    made = [await issued(world, owner(OURS, ADA)), await issued(world, scientist(OURS, BOB))]
    await world.hear(run(request=csr()))
    await world.said()
    return made


async def serials(world: World) -> set[int]:
    """The serial numbers on the list of people's revoked certificates."""
    crl = x509.load_der_x509_crl((await world.get("/crls/people")).content)
    return {each.serial_number for each in crl}


async def ended(world: World, ago: str) -> None:
    """All certificates come to their own end that long ago."""
    await world.sql(
        "UPDATE certificates SET not_after = now() - CAST(CAST(:ago AS text) AS interval), not_before = now() - interval '9 days'", ago=ago
    )


async def forgotten(world: World) -> set[tuple[str, int]]:
    """What ca forgets now: the certificates, and the versions that say so."""
    async with world.work() as uow:
        assert not await deletion.forget(uow)
    return {(key, version) for topic, key, version in await world.erased() if topic == "certificates"}


async def test_a_certificate_is_forgotten_a_day_after_its_end_wherever_it_was_told_of(world: World) -> None:
    [first, second] = [f"{each.serial_number:032x}" for each in await filled(world)]
    gone = await world.delete(f"/projects/{OURS}/certificates/{first}", owner(OURS, ADA))
    assert gone.status_code == 204
    await ended(world, "23 hours")
    async with world.work() as uow:
        await ending.expire(uow)
    assert await forgotten(world) == set()
    await ended(world, "25 hours")
    names = {row[0] for row in await world.sql("SELECT certificate_id FROM certificates")}
    await world.recorded()
    assert await forgotten(world) == {(name, 3) for name in names}
    assert {first, second} < names
    assert await world.sql("SELECT 1 FROM certificates") == []
    assert [record["resource"] for record in await world.recorded()] == [{"certificates": "3"}]


async def test_one_that_was_revoked_before_its_end_is_kept_until_a_list_was_made_after_it(world: World) -> None:
    made = await filled(world)
    first = f"{made[0].serial_number:032x}"
    assert (await world.delete(f"/projects/{OURS}/certificates/{first}", owner(OURS, ADA))).status_code == 204
    assert await serials(world) == {made[0].serial_number}
    await ended(world, "25 hours")
    async with world.work() as uow:
        await ending.expire(uow)
    await world.sql("UPDATE revocation_lists SET since = now() - interval '26 hours', this_update = now() - interval '24 hours 30 minutes'")
    assert len(await forgotten(world)) == 2
    assert [row[0] for row in await world.sql("SELECT certificate_id FROM certificates")] == [first]
    async with world.running(forget):
        await appears(world, "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM certificates)")


def test_what_does_not_end_by_itself_is_not_erased_while_services_hear_it() -> None:
    """A service that slept longer than tombstones live would never hear of it."""
    assert {topic.name for topic in TOPICS.values() if topic.authority and topic.erasable} == {
        "sessions",
        "credentials",
        "signing-keys",
        "certificates",
    }


async def test_closing_revokes_every_certificate_of_the_project_and_says_so_once(world: World) -> None:
    made = await filled(world)
    await world.hear(CLOSING)
    said = await world.said()
    assert [fact.live for fact in said if isinstance(fact, Certificate)] == [False] * 3
    assert [(fact.version, fact.step) for fact in said if isinstance(fact, Purged)] == [(1, PurgeStep.CLOSED)]
    await world.sql("DELETE FROM inbox")
    await world.hear(CLOSING)
    assert await world.said() == []
    assert {each.serial_number for each in made} <= await serials(world)
    refused = await world.post(f"/projects/{OURS}/certificates", owner(OURS, ADA), json={"csr": csr()})
    assert (refused.status_code, reason(refused)) == (409, "project-is-being-deleted")


async def test_a_deleted_project_leaves_serial_numbers_alone_and_those_as_long_as_lists_need_them(world: World) -> None:
    made = await filled(world)
    await world.hear(CLOSING, PURGING)
    await world.said()
    await purge(world)
    *stripped, told = await world.said()
    assert [(fact.live, fact.chain) for fact in stripped if isinstance(fact, Certificate)] == [(False, "")] * 3
    assert isinstance(told, Purged)
    assert told.removed == {"certificates": 0, "runs": 1, "memberships": 2}
    assert told.kept == {"serial_numbers": 3}
    assert await rows_with(world, NAME, "ada00000") == {"people": 1}
    assert {each.serial_number for each in made} <= await serials(world)
    assert (await world.get("/crls/workloads")).status_code == 200
    await ended(world, "25 hours")
    await world.sql("UPDATE revocation_lists SET since = now() - interval '26 hours'")
    assert await forgotten(world) == set(), "no list was made since"
    await world.sql("UPDATE revocation_lists SET since = now() - interval '1 hour'")
    assert await forgotten(world) == {(fact.key, 4) for fact in stripped if isinstance(fact, Certificate)}
    assert await world.sql("SELECT 1 FROM certificates") == []
    assert await world.said() == []


async def test_certificates_that_ran_out_go_at_once(world: World) -> None:
    await filled(world)
    await ended(world, "1 minute")
    async with world.work() as uow:
        await ending.expire(uow)
    await world.hear(CLOSING, PURGING)
    await purge(world)
    (told,) = [fact for fact in await world.said() if isinstance(fact, Purged) and fact.version == 2]
    assert (told.removed["certificates"], told.kept) == (3, {"serial_numbers": 0})
    assert await world.erased() == []
    await a_day_passes(world)
    assert {topic for topic, _, _ in await world.erased()} == {"certificates"}
    assert len(await world.erased()) == 3


async def test_nothing_late_comes_back_and_other_projects_go_on(world: World) -> None:
    await filled(world)
    await world.hear(project(THEIRS, name="other"), membership(ADA, project_id=THEIRS))
    await world.hear(CLOSING, PURGING)
    await purge(world)
    await world.said()
    await world.sql("DELETE FROM inbox")
    await world.hear(membership(BOB, version=5, username="bob00000"), run(RunState.RUNNING, version=9, request=csr()), DELETED)
    await purge(world)
    assert await world.said() == []
    assert await world.sql("SELECT project_id FROM members UNION SELECT project_id FROM runs") == [(THEIRS,)]
    assert await world.sql("SELECT name, open FROM projects WHERE project_id = :id", id=OURS) == [("", False)]
    answer = await world.post(f"/projects/{THEIRS}/certificates", scientist(THEIRS, ADA, "ada00000"), json={"csr": csr()})
    assert answer.status_code == 201
