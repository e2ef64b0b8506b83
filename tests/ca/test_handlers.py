"""What ca does with what it hears, on a real database; every fact is heard twice."""

import hashlib
from datetime import timedelta
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from chassis.lanes import Lane
from compose.local.pki import Pki
from contracts.events import (
    AGENTS,
    MEMBERSHIPS,
    RUNS,
    USERS,
    Certificate,
    CertificateKind,
    Fact,
    ProjectState,
    Purged,
    RunState,
    UserStatus,
)
from contracts.roles import NOBODY, Role
from services.ca import handlers, service
from services.ca.app import end_in_time, settle_waiting
from tests.ca.conftest import (
    ADA,
    AGENT,
    BOB,
    RUN,
    agent_fact,
    appears,
    csr,
    judged,
    membership,
    membership_ends,
    new_key,
    project,
    run,
    study,
    user,
)
from tests.world import OURS, World, Worlds, record_of, scientist

HERE = f"/projects/{OURS}/certificates"


@pytest.fixture
async def empty(worlds: Worlds, settings: dict[str, Any]) -> World:
    return await worlds.open("ca", **settings)


@pytest.fixture
async def world(empty: World) -> World:
    await empty.hear(*study())
    return empty


async def certificates(world: World) -> list[Certificate]:
    """What was said, all of it about certificates, but for the answer to a project's closing."""
    facts = await world.said()
    assert all(isinstance(fact, (Certificate, Purged)) for fact in facts)
    return [fact for fact in facts if isinstance(fact, Certificate)]


async def twice(world: World, fact: Fact) -> list[Certificate]:
    """Hear a fact; then again, by its handler as if the inbox had forgotten it: nothing more is said."""
    await world.hear(fact)
    said = await certificates(world)
    await world.hear(fact)
    await world.sql("DELETE FROM inbox WHERE key = :key", key=fact.key)
    await world.hear(fact)
    assert await certificates(world) == []
    return said


async def live(world: World) -> set[str]:
    return {row[0] for row in await world.sql("SELECT certificate_id FROM certificates WHERE state = 'live'")}


async def project_certificate(world: World) -> str:
    answer = await world.post(HERE, scientist(OURS, BOB), json={"csr": csr()})
    assert answer.status_code == 201
    await world.said()
    name: str = answer.json()["certificate_id"]
    return name


async def job_certificate(world: World) -> str:
    await world.hear(run(request=csr()))
    [fact] = await certificates(world)
    return fact.certificate_id


async def test_a_leased_run_gets_one_certificate_bound_to_its_fencing_token(world: World, pki: Pki, tmp_path: Path) -> None:
    [fact] = await twice(world, run(request=csr()))
    assert (fact.kind, fact.live, fact.version) == (CertificateKind.JOB, True, 1)
    assert (fact.project_id, fact.user_id, fact.run_id, fact.fencing_token, fact.agent_id) == (OURS, BOB, RUN, 1, None)
    text = judged(fact.chain, pki.issuers_folder / "workloads.pem", tmp_path)
    assert f"URI:spiffe://hortus.internal/project/{OURS}/user/{BOB}/job/{RUN}\n" in text
    assert "Subject: CN=mri-study__bob00000,O=Hortus" in text


@pytest.mark.parametrize("order", list(permutations(range(4)))[::4])
async def test_a_run_gets_its_certificate_in_whatever_order_the_facts_arrive(empty: World, order: tuple[int, ...]) -> None:
    facts: list[Fact] = [project(), user(BOB), membership(BOB), run(request=csr())]
    for place in order:
        assert await certificates(empty) == []
        await twice_quiet(empty, facts[place])
    [fact] = await certificates(empty)
    assert fact.run_id == RUN


@pytest.mark.parametrize("late", [0, 1, 2], ids=["project", "person", "membership"])
async def test_a_run_gets_its_certificate_although_it_and_what_it_needs_arrived_at_one_moment(empty: World, late: int) -> None:
    """Neither transaction sees what the other one brings: the run is looked at again afterwards."""
    needed: list[Fact] = [project(), user(BOB), membership(BOB)]
    missing = needed.pop(late)
    await empty.hear(*needed)
    async with empty.running(settle_waiting):
        async with empty.work() as uow:
            await handlers.hears.handlers[missing.type](missing, uow)
            await empty.hear(run(request=csr()))
        await appears(empty, "SELECT 1 FROM certificates WHERE kind = 'job' AND state = 'live'")
    assert len(await certificates(empty)) == 1


async def test_while_nothing_waits_nothing_is_said_or_recorded(world: World) -> None:
    await job_certificate(world)
    await world.hear(run(version=3, fencing_token=2, request="no request"))
    await world.said()
    await world.recorded()
    async with world.work() as uow:
        assert await service.parties.waiting(uow) == ([], [])
    assert (await world.said(), await world.recorded()) == ([], [])


async def twice_quiet(world: World, fact: Fact) -> None:
    await world.hear(fact)
    await world.hear(fact)


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED])
async def test_a_run_that_is_not_leased_gets_no_certificate(world: World, state: RunState) -> None:
    assert await twice(world, run(state, request=csr())) == []


async def test_a_run_without_a_request_gets_no_certificate_until_it_asks(world: World) -> None:
    assert await twice(world, run(request=None)) == []
    assert len(await twice(world, run(version=3, request=csr()))) == 1


async def test_a_run_that_goes_from_leased_to_running_keeps_its_certificate(world: World) -> None:
    request = csr()
    await world.hear(run(request=request))
    await world.said()
    assert await twice(world, run(RunState.RUNNING, version=3, request=request)) == []
    assert len(await live(world)) == 1


@pytest.mark.parametrize("state", [RunState.QUEUED, RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED])
async def test_the_certificate_of_a_run_that_ended_is_revoked(world: World, state: RunState) -> None:
    name = await job_certificate(world)
    [fact] = await twice(world, run(state, version=3))
    assert (fact.certificate_id, fact.live, fact.version) == (name, False, 2)
    assert await live(world) == set()


async def test_another_lease_of_the_run_gets_another_certificate_and_the_first_is_revoked(world: World) -> None:
    name = await job_certificate(world)
    ended, issued = await twice(world, run(version=4, fencing_token=2, request=csr()))
    assert (ended.certificate_id, ended.live) == (name, False)
    assert (issued.fencing_token, issued.live) == (2, True)
    assert await live(world) == {issued.certificate_id}


async def test_a_bad_request_of_a_run_is_no_poison_and_gets_nothing(world: World) -> None:
    assert await twice(world, run(request="-----BEGIN CERTIFICATE REQUEST-----")) == []
    records = await world.recorded()
    assert "one PEM block" in records[-1]["resource"]["request_refused"]
    assert await world.sql("SELECT 1 FROM certificates") == []


@pytest.mark.parametrize(
    "fact",
    [
        membership(BOB, version=2, role=None),
        membership(BOB, version=2, ends_at=membership().starts_at + timedelta(days=1)),
        user(BOB, version=2, status=UserStatus.BLOCKED),
        user(BOB, version=2, status=UserStatus.DEACTIVATED),
        project(version=2, state=ProjectState.CLOSING),
        project(version=2, state=ProjectState.DELETED),
    ],
    ids=["removed", "expired", "blocked", "deactivated", "closing", "deleted"],
)
async def test_whoever_loses_the_right_loses_the_certificates_of_the_project_and_of_its_runs(world: World, fact: Fact) -> None:
    held = {await project_certificate(world), await job_certificate(world)}
    said = await twice(world, fact)
    assert {each.certificate_id for each in said} == held
    assert not any(each.live for each in said)
    assert await live(world) == set()
    assert await twice(world, run(version=3, request=csr())) == []


async def test_a_change_of_role_takes_no_certificate_away(world: World) -> None:
    held = {await project_certificate(world), await job_certificate(world)}
    assert await twice(world, membership(BOB, version=2, role=Role.DATA_OWNER)) == []
    assert await live(world) == held


async def test_one_persons_loss_is_not_anothers(world: World) -> None:
    held = {await project_certificate(world)}
    assert await twice(world, membership(ADA, version=2, role=None)) == []
    assert await twice(world, user(ADA, version=2, status=UserStatus.BLOCKED)) == []
    assert await live(world) == held


async def test_a_removed_member_who_comes_back_gets_no_old_certificate_back(world: World) -> None:
    await project_certificate(world)
    await job_certificate(world)
    await twice(world, membership(BOB, version=2, role=None))
    assert await twice(world, membership(BOB, version=3)) == []
    assert await live(world) == set()


async def test_who_was_removed_and_came_back_while_ca_heard_nothing_gets_no_old_certificate_back(world: World) -> None:
    held = {await project_certificate(world), await job_certificate(world)}
    said = await twice(world, membership(BOB, version=3, starts_at=await world.now()))
    assert {(each.certificate_id, each.live) for each in said} == {(each, False) for each in held}
    assert await live(world) == set()
    assert await project_certificate(world) in await live(world), "the membership counts, and gets another"


async def test_whose_account_stopped_and_goes_on_while_ca_heard_nothing_gets_no_old_certificate_back(world: World) -> None:
    held = {await project_certificate(world), await job_certificate(world)}
    assert await twice(world, user(BOB, version=2)) == []
    said = await twice(world, user(BOB, version=4, stops=1))
    assert {(each.certificate_id, each.live) for each in said} == {(each, False) for each in held}
    assert await live(world) == set()
    await project_certificate(world)
    assert await twice(world, user(BOB, version=5, stops=1)) == []


async def test_an_agent_that_enrolled_gets_one_certificate(world: World, pki: Pki, tmp_path: Path) -> None:
    [fact] = await twice(world, agent_fact(csr()))
    assert (fact.kind, fact.agent_id, fact.user_id, fact.project_id, fact.run_id) == (CertificateKind.AGENT, AGENT, None, None, None)
    text = judged(fact.chain, pki.issuers_folder / "workloads.pem", tmp_path)
    assert f"URI:spiffe://hortus.internal/agent/{AGENT}\n" in text
    assert timedelta(hours=24) - timedelta(minutes=1) < fact.not_after - await world.now() <= timedelta(hours=24)


async def test_an_agent_that_was_renamed_keeps_its_certificate(world: World) -> None:
    request = csr()
    await world.hear(agent_fact(request))
    await world.said()
    assert await twice(world, agent_fact(request, version=2)) == []


async def test_a_certificate_names_the_request_that_it_answers(world: World) -> None:
    requests = [csr(), csr()]
    await world.hear(agent_fact(requests[0]), run(request=requests[1]))
    expected = [hashlib.sha256(x509.load_pem_x509_csr(each.encode()).public_bytes(Encoding.DER)).hexdigest() for each in requests]
    assert [fact.csr_sha256 for fact in await certificates(world)] == expected


async def superseded(world: World, overlap: timedelta) -> list[Certificate]:
    async with world.work(NOBODY, "certificate.expire") as uow:
        await service.ending.supersede(uow, overlap)
    return await certificates(world)


async def test_an_agent_that_renews_shows_the_certificate_before_for_a_while_and_then_it_is_superseded(world: World) -> None:
    key = new_key()
    await world.hear(agent_fact(csr(key)))
    [first] = await certificates(world)
    [second] = await twice(world, agent_fact(csr(key), version=2))
    assert second.live
    assert await superseded(world, timedelta(minutes=1)) == []
    assert await live(world) == {first.certificate_id, second.certificate_id}
    [ended] = await superseded(world, timedelta(0))
    assert (ended.certificate_id, ended.live) == (first.certificate_id, False)
    assert await superseded(world, timedelta(0)) == []
    assert await live(world) == {second.certificate_id}


async def test_the_timer_supersedes_by_itself(worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("ca", **settings, agent_overlap_s=0)
    await world.hear(agent_fact(csr()), agent_fact(csr(), version=2))
    first = (await certificates(world))[0]
    async with world.running(end_in_time):
        [ended] = await eventually_said(world, 1)
    assert ended.certificate_id == first.certificate_id


async def test_an_agent_that_is_withdrawn_loses_the_certificates_of_before_and_after_a_renewal_at_once(world: World) -> None:
    await world.hear(agent_fact(csr()), agent_fact(csr(), version=2))
    held = await live(world)
    said = await twice(world, agent_fact(None, version=3, live=False))
    assert {fact.certificate_id for fact in said} == held
    assert {row[0] for row in await world.sql("SELECT ending FROM certificates")} == {"agent withdrawn"}


async def test_an_agent_that_was_withdrawn_loses_its_certificate(world: World) -> None:
    request = csr()
    await world.hear(agent_fact(request))
    await world.said()
    [fact] = await twice(world, agent_fact(request, version=2, live=False))
    assert not fact.live


async def test_an_agent_that_did_not_enrol_yet_has_no_certificate(world: World) -> None:
    assert await twice(world, agent_fact(None)) == []


async def test_a_batch_of_facts_is_heard_as_one(world: World) -> None:
    """Ten facts of one run in one batch: the consumer's transaction holds them all."""
    key = new_key()
    facts = [run(version=2 + token, fencing_token=token, request=csr(key)) for token in range(1, 11)]
    assert await world.consumer.applier.apply(Lane(RUNS), [record_of(fact) for fact in facts]) == 10
    assert len(await live(world)) == 1
    last = (await certificates(world))[-1]
    assert (last.fencing_token, last.live) == (10, True)


async def test_what_was_erased_while_ca_slept_is_revoked(world: World) -> None:
    held = {await project_certificate(world), await job_certificate(world)}
    await world.hear(agent_fact(csr()))
    [agents] = await certificates(world)
    async with world.work() as uow:
        await handlers.hears.erasers[MEMBERSHIPS.name](f"{OURS}:{BOB}", uow)
        await handlers.hears.erasers[AGENTS.name](str(AGENT), uow)
    assert {fact.certificate_id for fact in await certificates(world)} == held | {agents.certificate_id}
    assert await live(world) == set()


@pytest.mark.parametrize(("topic", "key"), [(USERS, str(BOB)), (RUNS, str(RUN))])
async def test_the_certificate_of_an_erased_run_or_person_is_revoked(world: World, topic: Any, key: str) -> None:
    name = await job_certificate(world)
    async with world.work() as uow:
        await handlers.hears.erasers[topic.name](key, uow)
    assert [fact.certificate_id for fact in await certificates(world)] == [name]


async def test_certificates_end_at_the_instant_the_membership_ends(world: World) -> None:
    held = {await project_certificate(world), await job_certificate(world)}
    ends = await world.now() + timedelta(seconds=1.5)
    await world.hear(membership(BOB, version=2, ends_at=ends))
    assert await live(world) == held
    async with world.running(end_in_time):
        said = await eventually_said(world, 2)
    assert {fact.certificate_id for fact in said} == held
    ended = [row[0] for row in await world.sql("SELECT ended_at FROM certificates")]
    assert all(ends <= at < ends + timedelta(seconds=1) for at in ended)


async def test_the_certificate_of_a_run_lives_on_when_the_membership_is_prolonged(world: World) -> None:
    ends = await world.now() + timedelta(hours=1)
    await world.hear(membership(BOB, version=2, ends_at=ends))
    await job_certificate(world)
    async with world.work() as uow:
        assert await service.ending.expire(uow) == ends
    await world.hear(membership(BOB, version=3, ends_at=ends + timedelta(hours=1)))
    async with world.work() as uow:
        assert await service.ending.expire(uow) == ends + timedelta(hours=1)
    await world.hear(membership(BOB, version=4))
    assert await world.sql("SELECT right_ends_at FROM certificates WHERE state = 'live'") == [(None,)]


async def test_a_membership_that_is_prolonged_after_its_end_brings_no_certificate_back(world: World) -> None:
    """Whoever asked in between was told that it is revoked."""
    name = await job_certificate(world)
    ends = await membership_ends(world)
    await world.hear(membership(BOB, version=3, ends_at=ends + timedelta(hours=1)))
    async with world.work() as uow:
        await service.ending.expire(uow)
    assert [(fact.certificate_id, fact.live) for fact in await certificates(world)] == [(name, False)]


async def test_the_certificate_of_a_run_ends_at_the_instant_the_membership_does(world: World) -> None:
    ends = await world.now() + timedelta(seconds=3)
    await world.hear(membership(BOB, version=2, ends_at=ends))
    await job_certificate(world)
    async with world.running(end_in_time):
        [fact] = await eventually_said(world, 1)
    assert (fact.live, fact.chain) == (False, "")
    assert fact.not_after > ends + timedelta(hours=23)
    [row] = await world.sql("SELECT ended_at, ending FROM certificates")
    assert tuple(row) == (ends, "membership ended")


async def test_the_certificate_of_a_person_that_ends_with_the_membership_is_over_and_not_revoked(world: World) -> None:
    ends = await world.now() + timedelta(seconds=3)
    await world.hear(membership(BOB, version=2, ends_at=ends))
    await project_certificate(world)
    async with world.running(end_in_time):
        [fact] = await eventually_said(world, 1)
    assert fact.not_after == ends.replace(microsecond=0)
    [row] = await world.sql("SELECT ended_at, ending FROM certificates")
    assert tuple(row) == (fact.not_after, "expired")


async def test_a_certificate_that_ran_out_is_said_to_be_over(worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("ca", **settings, project_life_s=1)
    await world.hear(*study())
    name = await project_certificate(world)
    async with world.running(end_in_time):
        [fact] = await eventually_said(world, 1)
    assert (fact.certificate_id, fact.live) == (name, False)
    [row] = await world.sql("SELECT ending FROM certificates")
    assert row.ending == "expired"


async def eventually_said(world: World, count: int) -> list[Certificate]:
    said: list[Certificate] = []
    deadline = await world.now() + timedelta(seconds=10)
    while len(said) < count and await world.now() < deadline:
        said += await certificates(world)
    assert len(said) == count
    return said


async def test_two_timers_end_a_certificate_once(worlds: Worlds, settings: dict[str, Any]) -> None:
    world = await worlds.open("ca", **settings, project_life_s=1)
    beside = await worlds.open("ca", beside=world, **settings, project_life_s=1)
    await world.hear(*study())
    for _ in range(5):
        await project_certificate(world)
    async with world.running(end_in_time), beside.running(end_in_time):
        said = await eventually_said(world, 5)
    assert {fact.version for fact in said} == {2}


async def test_the_timer_without_certificates_rests(empty: World) -> None:
    async with empty.work(NOBODY, "certificate.expire") as uow:
        assert await service.ending.expire(uow) is None
    assert await empty.said() == []
    assert await empty.recorded() == []
