"""An issuer's key that neither signs nor fails: whoever asks is told soon, and rights end meanwhile."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509

from chassis.csr import read_csr
from chassis.lanes import Lane
from compose.local.pki import Pki
from contracts.events import AGENTS, Agent
from services.ca import handlers, service, status_forms
from services.ca.app import settle_waiting
from tests.ca.conftest import ADA, AGENT, BOB, agent_fact, appears, csr, issued, membership, new_key, revoked, run, study
from tests.ca.slow import Slow
from tests.world import OURS, World, Worlds, owner, reason, record_of, scientist

OWNER, SCIENTIST = owner(OURS, ADA), scientist(OURS, BOB)
OTHER_AGENT = UUID("01900000-0000-7000-8000-0000000000d2")


@pytest.fixture
def slow(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    made = Slow(pki.issuers_folder, monkeypatch)
    yield made
    made.goes.set()


@pytest.fixture
async def world(worlds: Worlds, slow: Slow, pki: Pki, tmp_path: Path) -> World:
    for file in pki.issuers_folder.glob("*.pem"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    made = await worlds.open("ca", issuers_dir=tmp_path)
    await made.hear(*study())
    return made


async def test_whoever_asks_while_a_key_hangs_is_told_so_and_rights_end_meanwhile(world: World, slow: Slow) -> None:
    held = await issued(world, SCIENTIST)
    await world.said()
    slow.hang()
    answer = await world.post(f"/projects/{OURS}/certificates", OWNER, json={"csr": csr()})
    assert (answer.status_code, reason(answer)) == (503, "signer-away")
    await world.hear(run(request=csr()))
    assert await world.said() == []
    await world.hear(membership(BOB, version=2, role=None))
    assert [(fact.key, fact.live) for fact in await world.said()] == [(f"{held.serial_number:032x}", False)]  # type: ignore[attr-defined]
    assert world.runtime.missing() == ["issuers: a key does not answer"]


async def test_when_it_goes_on_everybody_is_served(world: World, slow: Slow) -> None:
    slow.hang()
    await world.hear(run(request=csr()))
    slow.go_on()
    async with world.running(settle_waiting):
        await appears(world, "SELECT 1 FROM certificates WHERE kind = 'job' AND state = 'live'")
    await issued(world, OWNER)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each try to make a list of revoked certificates."""
    made, make = [], status_forms.revocation_list

    def noted(*about: Any) -> Any:
        made.append(about)
        return make(*about)

    monkeypatch.setattr(status_forms, "revocation_list", noted)
    return made


async def signs_again(world: World, slow: Slow) -> None:
    slow.go_on()
    async with asyncio.timeout(30):
        while world.runtime.missing():
            await asyncio.sleep(0.02)


async def test_those_who_ask_for_a_list_that_a_key_does_not_sign_keep_nobody_from_losing_a_right(
    world: World, slow: Slow, tries: list[Any]
) -> None:
    held = await issued(world, SCIENTIST)
    await revoked(world, SCIENTIST, await issued(world, SCIENTIST))
    await world.said()
    slow.goes.clear()  # and nobody finds that out
    asking = [asyncio.create_task(world.get("/crls/people")) for _ in range(2 * world.runtime.settings.connections)]
    async with asyncio.timeout(30):
        while not tries:
            await asyncio.sleep(0.01)
    await world.hear(membership(BOB, version=2, role=None))
    assert [(fact.key, fact.live) for fact in await world.said()] == [(f"{held.serial_number:032x}", False)]  # type: ignore[attr-defined]
    assert not any(each.done() for each in asking)
    await signs_again(world, slow)
    await asyncio.gather(*asking)
    crl = x509.load_der_x509_crl((await world.get("/crls/people")).content)
    assert crl.get_revoked_certificate_by_serial_number(held.serial_number) is not None


async def test_a_list_that_a_key_did_not_sign_is_not_tried_again_by_those_who_waited_for_it(
    world: World, slow: Slow, tries: list[Any]
) -> None:
    slow.hang()
    answers = await asyncio.gather(*[world.get("/crls/people") for _ in range(12)])
    assert {(answer.status_code, reason(answer)) for answer in answers} == {(503, "signer-away")}
    assert len(tries) <= 1  # none, where the look after the keys found out first that one hangs
    await signs_again(world, slow)
    assert (await world.get("/crls/people")).headers["ETag"] == '"1"'


def another_agent(fact: Agent) -> Agent:
    return fact.model_copy(update={"agent_id": OTHER_AGENT})


async def live(world: World) -> list[UUID]:
    """Whose certificates count of the agents, as often as they do."""
    rows = await world.sql("SELECT agent_id FROM certificates WHERE kind = 'agent' AND state = 'live' ORDER BY agent_id")
    return [row[0] for row in rows]


async def waiting(world: World) -> list[str]:
    return [row[0] for row in await world.sql("SELECT csr FROM agent_requests")]


async def test_an_agent_that_waits_for_its_certificate_keeps_no_other_from_being_withdrawn(world: World, slow: Slow) -> None:
    await world.hear(another_agent(agent_fact(csr())))
    slow.hang()
    facts = [agent_fact(csr()), another_agent(agent_fact(None, version=2, live=False))]
    assert await world.consumer.applier.apply(Lane(AGENTS), [record_of(fact) for fact in facts]) == 2
    assert await live(world) == []
    await signs_again(world, slow)
    async with world.running(settle_waiting):
        await appears(world, "SELECT 1 FROM certificates WHERE kind = 'agent' AND state = 'live'")
    assert (await live(world), await waiting(world)) == ([AGENT], [])


async def test_of_an_agent_that_asked_twice_while_it_waited_the_newer_request_is_answered_once(world: World, slow: Slow) -> None:
    key = new_key()
    slow.hang()
    await world.hear(agent_fact(csr()), agent_fact(csr(key), version=2), agent_fact(csr(key), version=3))
    [last] = await waiting(world)
    await signs_again(world, slow)
    async with world.running(settle_waiting):
        await appears(world, "SELECT 1 FROM certificates WHERE kind = 'agent' AND state = 'live'")
    assert (await live(world), await waiting(world)) == ([AGENT], [])
    await world.hear(agent_fact(last, version=4))
    assert (await live(world), await waiting(world)) == ([AGENT], [])


@pytest.mark.parametrize("erased", [False, True])
async def test_an_agent_that_was_withdrawn_or_erased_while_it_waited_gets_no_certificate(world: World, slow: Slow, erased: bool) -> None:
    slow.hang()
    await world.hear(agent_fact(csr()))
    if erased:
        async with world.work() as uow:
            await handlers.hears.erasers[AGENTS.name](str(AGENT), uow)
    else:
        await world.hear(agent_fact(None, version=2, live=False))
    assert await waiting(world) == []
    await world.hear(another_agent(agent_fact(csr())))
    await signs_again(world, slow)
    async with world.running(settle_waiting):
        await appears(world, "SELECT 1 FROM certificates WHERE kind = 'agent' AND state = 'live'")
    assert await live(world) == [OTHER_AGENT]


async def test_an_agent_that_is_withdrawn_while_it_gets_its_certificate_loses_it(world: World, slow: Slow) -> None:
    slow.hang()
    await world.hear(agent_fact(csr()))
    await signs_again(world, slow)
    async with world.work() as uow:
        await service.parties.settle_agent(uow, AGENT)
        hearing = asyncio.create_task(world.hear(agent_fact(None, version=2, live=False)))
        await world.somebody_waits()
    await hearing
    assert (await live(world), await waiting(world)) == ([], [])


async def test_an_agent_that_asks_anew_while_it_gets_its_certificate_gets_the_newer_one_last(world: World, slow: Slow) -> None:
    """The younger certificate is the one that stays, so it has to be that of the newer request."""
    slow.hang()
    await world.hear(agent_fact(csr()))
    await signs_again(world, slow)
    newer = csr()
    async with world.work() as uow:
        await service.parties.settle_agent(uow, AGENT)
        hearing = asyncio.create_task(world.hear(agent_fact(newer, version=2)))
        await world.somebody_waits()
    await hearing
    assert await waiting(world) == [newer]
    async with world.running(settle_waiting):
        await appears(world, "SELECT 1 FROM certificates WHERE kind = 'agent' AND state = 'live' HAVING count(*) = 2")
    [last] = await world.sql("SELECT csr_sha256 FROM certificates WHERE state = 'live' ORDER BY created_at DESC LIMIT 1")
    assert last[0] == read_csr(newer).sha256
