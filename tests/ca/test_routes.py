"""The doors of ca on a real database."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from chassis.csr import read_csr
from compose.local.pki import Pki
from contracts.events import Certificate, CertificateKind, Fact, ProjectState, UserStatus
from contracts.roles import NOBODY, Actor
from services.ca import domain, service
from services.ca.domain.requests import Order
from services.ca.models import Intent
from tests.ca.conftest import ADA, BOB, LONG_AGO, RUN, csr, judged, membership, new_key, private_key, project, run, study, user
from tests.world import OURS, THEIRS, World, Worlds, agent, auditor, job, owner, person, reason, scientist, stranger

HERE = f"/projects/{OURS}/certificates"
OWNER = owner(OURS, ADA)
SCIENTIST = scientist(OURS, BOB)


@pytest.fixture
async def world(worlds: Worlds, settings: dict[str, Any]) -> World:
    made = await worlds.open("ca", **settings)
    await made.hear(*study())
    return made


async def ask(world: World, actor: Actor = SCIENTIST, request: str | None = None, **more: Any) -> httpx2.Response:
    return await world.post(HERE, actor, json={"csr": request or csr()}, **more)


async def given(world: World, actor: Actor = SCIENTIST) -> dict[str, Any]:
    answer = await ask(world, actor)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def test_a_member_gets_a_certificate_for_their_own_key(world: World, pki: Pki, tmp_path: Path) -> None:
    key = new_key()
    answer = await ask(world, request=csr(key))
    assert answer.status_code == 201
    body = answer.json()
    assert set(body) == {
        "certificate_id",
        "project_id",
        "user_id",
        "not_before",
        "not_after",
        "live",
        "chain",
        "fingerprint",
        "version",
    }
    text = judged(body["chain"], pki.issuers_folder / "people.pem", tmp_path)
    assert "Subject: CN=mri-study__bob00000,O=Hortus" in text
    assert f"URI:spiffe://hortus.internal/project/{OURS}/user/{BOB}\n" in text
    life = datetime.fromisoformat(body["not_after"]) - await world.now()
    assert timedelta(hours=8) - timedelta(seconds=10) < life <= timedelta(hours=8)
    [fact] = await world.said()
    assert isinstance(fact, Certificate)
    assert fact.kind is CertificateKind.PROJECT
    assert (fact.certificate_id, fact.fingerprint, fact.chain) == (body["certificate_id"], body["fingerprint"], body["chain"])
    assert (fact.project_id, fact.user_id, fact.live, fact.version) == (OURS, BOB, True, 1)
    assert answer.headers["ETag"] == '"1"'
    assert answer.headers["Hortus-Facts"] == f"certificates:{fact.certificate_id}:1"


async def test_the_intent_is_recorded_before_the_certificate(world: World) -> None:
    body = await given(world)
    intent, issued = await world.recorded()
    assert (intent["action"], intent["resource"]["certificate_id"]) == ("certificate.intend", body["certificate_id"])
    assert (issued["action"], issued["resource"]) == ("certificate.create", {"issued": body["certificate_id"]})
    assert {record["actor"]["user_id"] for record in (intent, issued)} == {str(BOB)}
    assert {record["project_id"] for record in (intent, issued)} == {str(OURS)}
    assert "BEGIN" not in str((intent, issued))


async def test_a_certificate_that_could_not_be_stored_counts_nowhere_and_its_intent_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Exception):
        pass

    def breaks(*_: object) -> None:
        raise Broken

    monkeypatch.setattr(domain.certificates, "issued", breaks)
    with pytest.raises(Broken):
        await ask(world)
    assert await world.said() == []
    [row] = await world.sql("SELECT state, chain, version FROM certificates")
    assert tuple(row) == ("intended", "", 0)
    assert (await world.get(HERE, SCIENTIST)).json()["items"] == []


async def test_a_certificate_ends_with_the_membership(world: World) -> None:
    ends = await world.now() + timedelta(minutes=30)
    await world.hear(membership(BOB, version=2, username="bob00000", ends_at=ends))
    body = await given(world)
    assert ends - timedelta(seconds=1) < datetime.fromisoformat(body["not_after"]) <= ends


@pytest.mark.parametrize(
    ("request_text", "sentence"),
    [("nothing", "one PEM block"), (private_key(), "private key never leaves"), (csr().replace("A", "B", 1), "")],
)
async def test_a_bad_request_is_refused_and_nothing_is_stored(world: World, request_text: str, sentence: str) -> None:
    answer = await ask(world, request=request_text)
    assert answer.status_code == 422
    assert reason(answer) == "csr-refused"
    assert sentence in answer.json()["detail"]
    assert "PRIVATE KEY" not in answer.text
    assert await world.sql("SELECT 1 FROM certificates") == []
    assert await world.said() == []


@pytest.mark.parametrize("body", [{}, {"csr": 5}, {"csr": None}, {"csr": "x" * 9000}, {"csr": csr(), "name": "root"}, [], "csr"])
async def test_a_body_of_another_shape_is_refused(world: World, body: object) -> None:
    answer = await world.post(HERE, SCIENTIST, json=body)
    assert answer.status_code == 422
    assert reason(answer) == "unprocessable"


@pytest.mark.parametrize(
    ("actor", "status"),
    [
        (stranger(OURS), 404),
        (person(project_id=OURS), 404),
        (auditor(), 404),
        (agent(), 404),
        (job(RUN), 404),
        (NOBODY, 401),
        (owner(THEIRS, ADA), 401),
    ],
)
async def test_only_members_get_certificates(world: World, actor: Actor, status: int) -> None:
    answer = await ask(world, actor)
    assert answer.status_code == status
    assert await world.said() == []


@pytest.mark.parametrize("change", ["removed", "blocked", "closing"])
async def test_what_this_service_knows_better_than_the_header_counts(world: World, change: str) -> None:
    if change == "removed":
        await world.hear(membership(BOB, version=2, role=None))
    elif change == "blocked":
        await world.hear(user(BOB, version=2, status=UserStatus.BLOCKED))
    else:
        await world.hear(project(version=2, state=ProjectState.CLOSING))
    await world.said()
    assert (await ask(world)).status_code == (409 if change == "closing" else 404)
    assert await world.said() == []


@pytest.mark.parametrize("key", [None, "one"], ids=["without a key", "with a key"])
async def test_what_has_not_arrived_yet_is_waited_for(world: World, key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.issuing, "KNOWN_WAIT_S", 30.0)
    newcomer = scientist(OURS, RUN, "new00000").model_copy(update={"versions": {f"memberships:{OURS}:{RUN}": 2}})
    await world.hear(user(RUN, username="new00000"), membership(RUN, username="new00000", role=None))
    waiting = asyncio.create_task(ask(world, newcomer, key=key))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await world.hear(membership(RUN, version=2, username="new00000"))
    assert (await waiting).status_code == 201


async def test_what_does_not_arrive_is_no_permission(world: World) -> None:
    unheard = scientist(OURS, RUN, "new00000")
    answer = await ask(world, unheard)
    assert answer.status_code == 503
    assert reason(answer) == "cannot-decide"
    assert answer.headers["Retry-After"] == "1"
    assert await world.sql("SELECT 1 FROM certificates") == []


async def test_a_repeated_creation_with_the_same_key_answers_the_same_certificate(world: World) -> None:
    request = csr()
    first = await ask(world, request=request, key="one")
    again = await ask(world, request=request, key="one")
    assert again.json() == first.json()
    assert len(await world.said()) == 1
    assert reason(await ask(world, request=csr(), key="one")) == "idempotency-key-reused"


async def test_many_at_once_are_all_issued_or_refused_in_time(world: World) -> None:
    answers = await asyncio.gather(*[ask(world) for _ in range(25)])
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["certificate_id"] for answer in answers}) == 25


async def test_a_scientist_lists_their_own_and_an_owner_all(world: World) -> None:
    adas, bobs = await given(world, OWNER), await given(world)
    assert [item["certificate_id"] for item in (await world.get(HERE, SCIENTIST)).json()["items"]] == [bobs["certificate_id"]]
    listed = (await world.get(HERE, OWNER)).json()["items"]
    assert [item["certificate_id"] for item in listed] == [adas["certificate_id"], bobs["certificate_id"]]
    assert listed[1] == bobs


async def test_a_list_is_read_page_by_page(world: World) -> None:
    made = [(await given(world))["certificate_id"] for _ in range(3)]
    first = (await world.get(f"{HERE}?limit=2", SCIENTIST)).json()
    second = (await world.get(f"{HERE}?limit=2&after={first['next']}", SCIENTIST)).json()
    assert [item["certificate_id"] for item in first["items"] + second["items"]] == made
    assert second["next"] is None


@pytest.mark.parametrize("cursor", ["x", "WzFd", "WyJhIiwgImIiXQ", "WyIyMDI2LTAxLTAxIiwgImIiXQ", "bnVsbA"])
async def test_a_cursor_of_another_make_is_refused(world: World, cursor: str) -> None:
    answer = await world.get(f"{HERE}?after={cursor}", SCIENTIST)
    assert answer.status_code == 422
    assert reason(answer) == "invalid-cursor"


async def test_the_certificates_of_runs_are_not_on_the_list_of_people(world: World) -> None:
    await world.hear(run(request=csr()))
    assert (await world.get(HERE, OWNER)).json()["items"] == []
    [fact] = await world.said()
    assert (await world.delete(f"{HERE}/{fact.key}", OWNER)).status_code == 404


async def test_a_person_revokes_their_own_certificate(world: World) -> None:
    body = await given(world)
    await world.said()
    answer = await world.delete(f"{HERE}/{body['certificate_id']}", SCIENTIST)
    assert (answer.status_code, answer.content) == (204, b"")
    [fact] = await world.said()
    assert isinstance(fact, Certificate)
    assert (fact.certificate_id, fact.live, fact.version) == (body["certificate_id"], False, 2)
    assert answer.headers["Hortus-Facts"] == f"certificates:{body['certificate_id']}:2"
    [listed] = (await world.get(HERE, SCIENTIST)).json()["items"]
    assert (listed["live"], listed["version"]) == (False, 2)


async def test_revoking_again_changes_nothing(world: World) -> None:
    body = await given(world)
    place = f"{HERE}/{body['certificate_id']}"
    assert (await world.delete(place, SCIENTIST)).status_code == 204
    await world.said()
    assert (await world.delete(place, OWNER)).status_code == 204
    assert await world.said() == []


async def test_an_owner_revokes_anybodys_certificate(world: World) -> None:
    body = await given(world)
    assert (await world.delete(f"{HERE}/{body['certificate_id']}", OWNER)).status_code == 204


async def test_a_certificate_is_revoked_only_where_it_is_own(world: World) -> None:
    adas = await given(world, OWNER)
    await world.said()
    theirs = f"/projects/{THEIRS}/certificates/{adas['certificate_id']}"
    assert (await world.delete(f"{HERE}/{adas['certificate_id']}", SCIENTIST)).status_code == 404
    assert (await world.delete(theirs, owner(THEIRS, ADA))).status_code == 404
    assert (await world.delete(f"{HERE}/{'0' * 32}", OWNER)).status_code == 404
    assert await world.said() == []


@pytest.mark.parametrize("name", ["..", "%00", "%ff", "A" * 3000, "☃"])
async def test_an_odd_certificate_id_is_not_found(world: World, name: str) -> None:
    assert (await world.delete(f"{HERE}/{name}", OWNER)).status_code in (404, 405, 422)


async def test_one_person_cannot_fill_the_list(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domain.certificates, "MOST_LIVE", 2)
    first = await given(world)
    await given(world)
    refused = await ask(world)
    assert (refused.status_code, reason(refused)) == (409, "too-many-certificates")
    await given(world, OWNER)
    await world.delete(f"{HERE}/{first['certificate_id']}", SCIENTIST)
    await given(world)


async def test_whoever_asks_while_somebody_issues_in_the_same_place_is_counted_after_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain.certificates, "MOST_LIVE", 1)
    async with world.work(SCIENTIST) as uow:
        assert isinstance((await service.issuing.certify([uow], [order()]))[0], Intent)
        asked = asyncio.create_task(ask(world))
        await world.somebody_waits()
        await given(world, OWNER)  # in another place nobody waits
    refused = await asked
    assert (refused.status_code, reason(refused)) == (409, "too-many-certificates")


@pytest.mark.parametrize(
    "loss",
    [
        membership(BOB, version=2, role=None),
        membership(BOB, version=3, starts_at=LONG_AGO + timedelta(days=1)),
        user(BOB, version=2, status=UserStatus.BLOCKED),
        user(BOB, version=3, stops=1),
    ],
    ids=["removed", "removed and back", "blocked", "blocked and back"],
)
async def test_a_loss_that_comes_while_a_certificate_is_issued_ends_it(world: World, loss: Fact) -> None:
    async with world.work(SCIENTIST) as uow:
        [made] = await service.issuing.certify([uow], [order()])
        heard = asyncio.create_task(world.hear(loss))
        await world.somebody_waits()
    await heard
    assert isinstance(made, Intent)
    [row] = await world.sql("SELECT certificate_id, state FROM certificates")
    assert tuple(row) == (made.certificate_id, "revoked")


async def test_whoever_asks_while_their_removal_is_heard_gets_nothing(world: World) -> None:
    async with world.work() as uow:
        await service.parties.learn_membership(uow, membership(BOB, version=2, role=None))
        asked = asyncio.create_task(ask(world))
        await world.somebody_waits()
    assert (await asked).status_code == 404
    assert await world.sql("SELECT 1 FROM certificates") == []


def order() -> Order:
    return Order(OURS, read_csr(csr()))


async def test_a_service_without_its_issuers_does_not_start(worlds: Worlds, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="cannot be opened"):
        await worlds.open("ca", issuers_dir=tmp_path)
