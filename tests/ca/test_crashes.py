"""ca is killed while it issues: what was announced and not stored counts nowhere, and whoever still needs a certificate gets one."""

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from compose.local.home import REPOSITORY
from compose.local.pki import Pki
from contracts.events import Certificate
from tests.ca.conftest import ADA, BOB, about, csr, run, study
from tests.world import OURS, World, Worlds, owner, scientist

OWNER, SCIENTIST = owner(OURS, ADA), scientist(OURS, BOB)
HERE = f"/projects/{OURS}/certificates"
CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from chassis import app
from chassis.guard import write_identity
from chassis.outbox import unit_of_work
from contracts.events import Run
from services.ca import domain, handlers, repository, service

def dies(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def stored_and_dies(*given):
    await store(*given)
    dies()

moment, url, issuers, folder, fact = sys.argv[1:]
if moment == "before signing":
    domain.certificates.build = dies
elif moment == "after signing":
    domain.certificates.issued = dies
else:
    store, repository.issuing.store = repository.issuing.store, stored_and_dies

async def main():
    spec = app.load("ca")
    settings = spec.settings(service="ca", tls_dir=folder, kafka="localhost:1", state_dir=folder, database_url=url, issuers_dir=issuers)
    async with app.running(spec, settings, only="api") as runtime:
        async with unit_of_work(runtime.engine, "ca", "hear.runs") as uow:
            await handlers.run_moved_on(Run.model_validate_json(fact), uow)

asyncio.run(main())
"""

CROWD = """
import asyncio, os, signal, sys
from uuid import UUID
from chassis import app
from services.ca import repository
from tests.ca.conftest import BOB, csr
from tests.world import OURS, World, scientist

url, issuers, folder, *requests = sys.argv[1:]
store = repository.issuing.store

async def stored_and_dies(*given):
    await store(*given)
    os.kill(os.getpid(), signal.SIGKILL)

async def main():
    spec = app.load("ca")
    settings = spec.settings(service="ca", tls_dir=folder, kafka="localhost:1", state_dir=folder, database_url=url, issuers_dir=issuers)
    async with app.running(spec, settings, only="api") as runtime:
        world = World(spec, runtime, url)

        async def ask(number):
            request, key = (requests[number], f"key-{number}") if requests else (csr(), None)
            answer = await world.post(f"/projects/{OURS}/certificates", scientist(OURS, BOB), json={"csr": request}, key=key)
            print(answer.status_code, answer.json()["certificate_id"], flush=True)

        await asyncio.gather(*[ask(number) for number in range(5)])
        repository.issuing.store = stored_and_dies
        await asyncio.gather(*[ask(number) for number in range(5, 25)])

asyncio.run(main())
"""

ANSWERLESS = """
import asyncio, os, signal, sys
from chassis import app, outbox
from tests.ca.conftest import BOB
from tests.world import OURS, World, scientist

url, issuers, folder, request = sys.argv[1:]
commit = outbox.commit_together

async def committed_and_dies(session, uows):
    await commit(session, uows)
    if uows and uows[0].action == "certificate.create":
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    spec = app.load("ca")
    settings = spec.settings(service="ca", tls_dir=folder, kafka="localhost:1", state_dir=folder, database_url=url, issuers_dir=issuers)
    async with app.running(spec, settings, only="api") as runtime:
        outbox.commit_together = committed_and_dies
        answer = await World(spec, runtime, url).post(
            f"/projects/{OURS}/certificates", scientist(OURS, BOB), json={"csr": request}, key="lost"
        )
        print(answer.status_code, flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    made = await worlds.open("ca", **settings)
    await made.hear(*study())
    return made


@pytest.mark.parametrize("moment", ["before signing", "after signing", "before the commit"])
async def test_what_was_announced_when_ca_was_killed_counts_nowhere_and_the_run_gets_another(world: World, pki: Pki, moment: str) -> None:
    fact = run(request=csr())
    arguments = [moment, world.database_url, pki.issuers_folder, pki.home.path, fact.model_dump_json()]
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    done = await asyncio.to_thread(subprocess.run, command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -9, done.stderr
    [lost] = await world.sql("SELECT certificate_id, state, version, chain, issuer_key FROM certificates")
    assert tuple(lost)[1:4] == ("intended", 0, "")
    assert await world.said() == []
    [intent] = await world.recorded()
    assert (intent["action"], intent["resource"]["certificate_id"]) == ("certificate.intend", lost.certificate_id)
    issuer = x509.load_pem_x509_certificate((pki.issuers_folder / "workloads.pem").read_bytes())
    answer = await world.post("/ocsp", content=about(int(lost.certificate_id, 16), issuer).public_bytes(Encoding.DER))
    assert ocsp.load_der_ocsp_response(answer.content).certificate_status is ocsp.OCSPCertStatus.UNKNOWN
    await world.hear(fact)
    [told] = await world.said()
    assert isinstance(told, Certificate)
    assert told.certificate_id != lost.certificate_id
    assert [row[0] for row in await world.sql("SELECT certificate_id FROM certificates WHERE state = 'live'")] == [told.certificate_id]


@pytest.mark.parametrize("keyed", [False, True], ids=["without keys", "with keys"])
async def test_of_a_crowd_at_the_door_when_ca_was_killed_exactly_those_who_were_answered_have_certificates(
    world: World, pki: Pki, *, keyed: bool
) -> None:
    requests = [csr() for _ in range(25 * keyed)]
    command = [sys.executable, "-c", CROWD, world.database_url, str(pki.issuers_folder), str(pki.home.path), *requests]
    done = await asyncio.to_thread(subprocess.run, command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == -9, done.stderr
    answers = [line.split() for line in done.stdout.splitlines()]
    assert {status for status, _ in answers} == {"201"}
    answered = {name for _, name in answers}
    live = {row[0] for row in await world.sql("SELECT certificate_id FROM certificates WHERE state = 'live'")}
    assert live == answered
    assert len(live) == 5
    assert await world.sql("SELECT 1 FROM certificates WHERE state = 'intended'") != []
    assert {fact.key for fact in await world.said()} == live
    again = await asyncio.gather(
        *[world.post(HERE, SCIENTIST, json={"csr": request}, key=f"key-{number}") for number, request in enumerate(requests)]
    )
    assert [answer.status_code for answer in again] == [201] * len(requests)
    assert {answer.json()["certificate_id"] for answer in again[:5]} == (answered if keyed else set())
    assert [answer.headers.get("Idempotency-Replayed") for answer in again] == [*["true"] * 5, *[None] * 20][: len(requests)]
    assert (await world.sql("SELECT count(*) FROM certificates WHERE state = 'live'"))[0][0] == len(requests or live)


async def test_whoever_lost_the_answer_because_ca_was_killed_after_the_commit_gets_it_with_the_key(world: World, pki: Pki) -> None:
    request = csr()
    command = [sys.executable, "-c", ANSWERLESS, world.database_url, str(pki.issuers_folder), str(pki.home.path), request]
    done = await asyncio.to_thread(subprocess.run, command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (-9, ""), done.stderr
    [fact] = await world.said()
    again = await world.post(HERE, SCIENTIST, json={"csr": request}, key="lost")
    assert (again.status_code, again.json()["certificate_id"], again.headers["Idempotency-Replayed"]) == (201, fact.key, "true")
    assert again.headers["Hortus-Facts"] == f"certificates:{fact.key}:1"
    assert await world.said() == []


@pytest.mark.parametrize("keyed", [False, True], ids=["without keys", "with keys"])
async def test_those_who_ask_at_the_same_moment_share_a_transaction_and_each_has_their_own_record(world: World, *, keyed: bool) -> None:
    asked = [await world.post(HERE, SCIENTIST, json={"csr": csr()})]
    before = (await world.sql("SELECT count(DISTINCT xmin::text) FROM certificates"))[0][0]
    keys = [f"key-{number}" if keyed else None for number in range(40)]
    asked += await asyncio.gather(
        *[world.post(HERE, actor, json={"csr": csr()}, key=key) for actor, key in zip((SCIENTIST, OWNER) * 20, keys, strict=True)]
    )
    assert {answer.status_code for answer in asked} == {201}
    transactions = (await world.sql("SELECT count(DISTINCT xmin::text) FROM certificates"))[0][0] - before
    assert transactions < 20
    records = await world.recorded()
    names = {answer.json()["certificate_id"] for answer in asked}
    assert {each["resource"]["issued"] for each in records if each["action"] == "certificate.create"} == names
    assert {each["resource"]["certificate_id"] for each in records if each["action"] == "certificate.intend"} == names
    assert len({each["request_id"] for each in records}) == len(asked)
    facts = {fact.key: fact for fact in await world.said()}
    for answer in asked:
        body = answer.json()
        assert answer.headers["Hortus-Facts"] == f"certificates:{body['certificate_id']}:1"
        assert (facts[body["certificate_id"]].user_id, facts[body["certificate_id"]].chain) == (  # type: ignore[attr-defined]
            OWNER.user_id if body["user_id"] == str(ADA) else SCIENTIST.user_id,
            body["chain"],
        )


@pytest.mark.parametrize("keyed", [False, True], ids=["without keys", "with keys"])
async def test_one_who_may_not_is_refused_and_the_others_of_the_moment_are_served(world: World, *, keyed: bool) -> None:
    await world.hear(run(request=None))
    strangers = scientist(OURS, OWNER.session_id, "eve00000")
    orders = list(enumerate((SCIENTIST, strangers, OWNER) * 3))
    answers = await asyncio.gather(
        *[world.post(HERE, actor, json={"csr": csr()}, key=f"key-{number}" if keyed else None) for number, actor in orders]
    )
    assert [answer.status_code for answer in answers] == [201, 503, 201] * 3
    assert len(await world.said()) == 6
    assert all(each["outcome"] == "allowed" for each in await world.recorded())
    assert (await world.sql("SELECT count(*) FROM idempotency WHERE body IS NOT NULL"))[0][0] == 6 * keyed
    assert await world.sql("SELECT 1 FROM idempotency WHERE body IS NULL") == []
