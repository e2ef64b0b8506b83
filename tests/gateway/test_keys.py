"""API keys at the gateway: for what they were made and no more, while they and their person count and no longer."""

import asyncio
import hmac
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from chassis import tokens
from chassis.keys import new_key
from contracts.events import CertificateKind, User, UserStatus
from contracts.policy import Action
from contracts.roles import ClusterRole, Principal, Role
from gateway import authenticate, authority, plane
from gateway.authenticate import Authenticator
from tests.gateway.stage import Key, Someone, Stage, problem, until
from tests.gateway.test_plane import changes_at
from tests.gateway.test_transfers import FILE, PROJECT, cut

OTHER = uuid7()
LONG_AGO = UUID(int=(1_700_000_000_000 << 80) | (0x7ABC << 64) | (0b10 << 62) | 99)


def owner(stage: Stage, *roles: ClusterRole) -> Someone:
    someone = stage.signs_in(*roles)
    stage.joins(someone, PROJECT)
    stage.joins(someone, OTHER, Role.DATA_SCIENTIST)
    return someone


async def refused(stage: Stage, shown: Key | str, path: str = "/projects") -> str:
    """The slug of the 401 with which an API key is turned away, before any service hears of it."""
    before = len(stage.seen)
    text = shown if isinstance(shown, str) else shown.text
    answer = await (await stage.client()).get(path, headers={"Authorization": f"Bearer {text}"})
    assert answer.status_code == 401
    assert len(stage.seen) == before
    return problem(answer)


async def test_a_key_acts_for_its_person_and_is_no_session_and_no_administrator(stage: Stage) -> None:
    ada = owner(stage, ClusterRole.ADMINISTRATOR)
    key = stage.makes_key(ada)
    client = await stage.client(key)
    assert (await client.get(f"/projects/{PROJECT}")).status_code == 200
    actor = stage.actor()
    assert (actor.principal, actor.user_id, actor.role, actor.key_id) == (Principal.PERSON, ada.user_id, Role.DATA_OWNER, key.fact.key_id)
    assert (actor.session_id, actor.factor_at, actor.factor_fresh, actor.cluster_roles) == (None, None, False, frozenset())
    assert actor.scopes == key.fact.scopes
    assert actor.versions[f"credentials:{key.fact.key_id}"] == 1
    assert "authorization" not in stage.seen[-1]["headers"]
    assert (await client.get("/projects")).status_code == 200
    assert stage.actor().projects == {PROJECT: Role.DATA_OWNER, OTHER: Role.DATA_SCIENTIST}
    users = await client.get("/users")
    assert (users.status_code, problem(users)) == (403, "role-may-not")
    for path in ("/users/me", "/keys", "/sessions"):
        answer = await client.get(path)
        assert (answer.status_code, problem(answer)) == (403, "session-needed")
    read, *_ = await stage.records()
    assert (read["actor"]["key_id"], read["actor"]["user_id"]) == (str(key.fact.key_id), str(ada.user_id))


async def test_a_key_opens_only_what_it_was_made_for(stage: Stage) -> None:
    key = stage.makes_key(owner(stage), scopes=frozenset({Action.PROJECT_READ.value}))
    client = await stage.client(key)
    assert (await client.get(f"/projects/{PROJECT}")).status_code == 200
    for answer in (await client.get("/projects"), await client.get(FILE), await client.post(f"/projects/{PROJECT}/jobs", json={})):
        assert (answer.status_code, problem(answer)) == (403, "scope-missing")
    assert len(stage.seen) == 1


async def test_a_key_for_one_project_is_nobodys_member_in_every_other(stage: Stage) -> None:
    ada = owner(stage)
    client = await stage.client(stage.makes_key(ada, project_id=PROJECT))
    assert (await client.get(f"/projects/{PROJECT}")).status_code == 200
    assert stage.actor().role is Role.DATA_OWNER
    foreign = await client.get(f"/projects/{OTHER}")
    assert (foreign.status_code, foreign.json()) == (404, (await client.get(f"/projects/{uuid7()}")).json())
    assert (await client.get("/projects")).status_code == 200
    assert stage.actor().projects == {PROJECT: Role.DATA_OWNER}
    stage.joins(ada, PROJECT, None, version=2)
    for path in ("/projects", f"/projects/{PROJECT}", f"/projects/{OTHER}"):
        answer = await client.get(path)
        assert (answer.status_code, problem(answer)) == (401, "membership-ended")


async def test_a_wrong_secret_and_an_unknown_key_are_answered_alike_at_once_and_are_not_written_down(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane, "WAIT_S", 60.0)  # what is waited for outlasts the patience of this test
    ada = owner(stage)
    young = stage.makes_key(ada)
    ended = stage.makes_key(ada, live=False)
    shown = {
        "another secret of a known key": new_key(young.fact.key_id),
        "another secret of an ended key": new_key(ended.fact.key_id),
        "a key made long ago": new_key(LONG_AGO),
        "a key from the future": new_key(UUID(int=uuid7().int + (3_600_000 << 80))),
        "a secret too short": young.text[:-1],
        "capital letters in the id": young.text[:7] + young.text[7:39].upper() + young.text[39:],
        "an id of another kind": f"hortus_{'0' * 32}_{young.text[-43:]}",
        "the prefix alone": "hortus_",
        "a token behind the prefix": f"hortus_{ada.token}",
    }
    for name, text in shown.items():
        assert await asyncio.wait_for(refused(stage, text), 10) == "invalid-credential", name
    await stage.records()
    disk = b"".join(path.read_bytes() for path in stage.gateway.spool.folder.iterdir())
    assert not any(text[-43:].encode() in disk for text in shown.values() if len(text) > 43)


async def test_a_secret_is_compared_in_constant_time_with_something_also_when_the_key_is_unknown(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[int] = []

    def counts(shown: str, known: str) -> bool:
        compared.append(len(known))
        return hmac.compare_digest(shown, known)

    monkeypatch.setattr(authority, "hmac", type("Spied", (), {"compare_digest": staticmethod(counts)}))
    key = stage.makes_key(owner(stage))
    for text in (key.text, new_key(key.fact.key_id), new_key(LONG_AGO)):
        await (await stage.client()).get("/projects", headers={"Authorization": f"Bearer {text}"})
    assert compared == [64, 64, 64]


async def test_a_key_that_is_on_its_way_is_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "WAIT_S", 10.0)
    key = stage.makes_key(owner(stage), told=False)
    asking = asyncio.create_task((await stage.client(key)).get("/projects"))
    done, _ = await asyncio.wait([asking], timeout=0.3)
    assert not done
    stage.tell(key.fact)
    assert (await asking).status_code == 200


async def test_a_young_key_that_nobody_heard_of_is_401_after_a_second(stage: Stage) -> None:
    began = time.monotonic()
    assert await refused(stage, new_key(uuid7())) == "invalid-credential"
    assert 0.9 < time.monotonic() - began < 2


async def test_one_address_cannot_have_many_made_up_keys_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "MOST_WAITING", 3)
    ada = owner(stage)
    client = await stage.client()

    async def ask() -> tuple[int, str]:
        answer = await client.get("/projects", headers={"Authorization": f"Bearer {new_key(uuid7())}"})
        return answer.status_code, problem(answer)

    answers = await asyncio.gather(*[ask() for _ in range(8)])
    assert sorted(answers) == [(401, "invalid-credential")] * 3 + [(429, "too-many-at-once")] * 5
    assert await ask() == (401, "invalid-credential")
    assert (await (await stage.client(stage.makes_key(ada))).get("/projects")).status_code == 200


async def test_while_the_newest_facts_are_not_known_an_unknown_key_is_not_called_wrong(stage: Stage) -> None:
    stage.pulsing = False
    await until(lambda: not stage.gateway.projection.is_fresh())
    answer = await (await stage.client()).get("/projects", headers={"Authorization": f"Bearer {new_key(LONG_AGO)}"})
    assert (answer.status_code, problem(answer)) == (503, "cannot-decide")


async def test_an_ended_key_and_one_of_a_blocked_person_are_401_at_once_and_say_why(stage: Stage) -> None:
    ada, eve = owner(stage), owner(stage)
    first, second = stage.makes_key(ada), stage.makes_key(eve)
    for key in (first, second):
        assert (await (await stage.client(key)).get("/projects")).status_code == 200
    stage.tell(first.fact.model_copy(update={"version": 2, "live": False}))
    stage.tell(User(version=2, user_id=eve.user_id, username="eve", status=UserStatus.BLOCKED, cluster_roles=frozenset()))
    assert await refused(stage, first) == "key-not-live"
    assert await refused(stage, second) == "account-not-active"
    stage.tell(User(version=3, user_id=eve.user_id, username="eve", status=UserStatus.ACTIVE, cluster_roles=frozenset()))
    assert (await (await stage.client(second)).get("/projects")).status_code == 200


async def test_a_key_ends_at_its_instant(stage: Stage) -> None:
    key = stage.makes_key(owner(stage))
    client = await stage.client(key)
    assert (await client.get("/projects")).status_code == 200
    ends = datetime.now(UTC) + timedelta(seconds=0.4)
    stage.tell(key.fact.model_copy(update={"version": 2, "expires_at": ends}))
    await changes_at(ends, client, "/projects", 200, 401)
    assert await refused(stage, key) == "key-not-live"


async def test_scopes_that_are_taken_away_and_another_secret_count_at_once(stage: Stage) -> None:
    key = stage.makes_key(owner(stage))
    client = await stage.client(key)
    assert (await client.get("/projects")).status_code == 200
    stage.tell(key.fact.model_copy(update={"version": 2, "scopes": frozenset({Action.PROJECT_READ.value})}))
    answer = await client.get("/projects")
    assert (answer.status_code, problem(answer)) == (403, "scope-missing")
    stage.tell(key.fact.model_copy(update={"version": 3, "secret_sha256": "0" * 64}))
    assert await refused(stage, key) == "invalid-credential"


@pytest.mark.parametrize("upload", [False, True])
async def test_a_transfer_by_key_is_cut_when_the_key_ends_or_its_person_is_blocked_or_loses_the_role(stage: Stage, upload: bool) -> None:
    def ended(key: Key) -> None:
        stage.tell(key.fact.model_copy(update={"version": 2, "live": False}))

    def narrowed(key: Key) -> None:
        stage.tell(key.fact.model_copy(update={"version": 2, "scopes": frozenset({"project.read"})}))

    def blocked(key: Key) -> None:
        stage.tell(User(version=2, user_id=key.fact.user_id, username="x", status=UserStatus.BLOCKED, cluster_roles=frozenset()))

    def removed(key: Key) -> None:
        stage.joins(Someone(key.fact.user_id, uuid7(), ""), PROJECT, None, version=2)

    for lose in (ended, narrowed, blocked, removed):
        key = stage.makes_key(owner(stage), project_id=PROJECT)
        assert await cut(stage, await stage.client(key), lambda lose=lose, key=key: lose(key), upload=upload) < 1.0, lose.__name__


async def test_a_transfer_by_key_ends_at_the_instant_when_the_key_does(stage: Stage) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=2)
    client = await stage.client(stage.makes_key(owner(stage), expires_at=ends))
    began: list[float] = []
    took = await cut(stage, client, lambda: began.append(time.time()), upload=False)
    assert 0 <= began[0] + took - ends.timestamp() < 1.0


async def test_a_key_and_a_certificate_speak_for_one_person_in_one_project(stage: Stage) -> None:
    ada, eve = owner(stage, ClusterRole.AUDITOR), owner(stage)
    holder = stage.holds(CertificateKind.PROJECT, project_id=PROJECT, user_id=ada.user_id)
    client = await stage.client(holder=holder)
    for key in (stage.makes_key(ada), stage.makes_key(ada, project_id=PROJECT)):
        assert (await client.get(f"/projects/{PROJECT}", headers=key.headers)).status_code == 200
        actor = stage.actor()
        assert (actor.key_id, actor.certificate_id, actor.role) == (key.fact.key_id, holder.certificate_id, Role.DATA_OWNER)
        assert actor.cluster_roles == frozenset()
        assert (await client.get(f"/projects/{OTHER}", headers=key.headers)).status_code == 404
    for key in (stage.makes_key(eve), stage.makes_key(ada, project_id=OTHER)):
        answer = await client.get(f"/projects/{PROJECT}", headers=key.headers)
        assert (answer.status_code, problem(answer)) == (401, "credentials-differ")
    machine = await stage.client(holder=stage.holds(CertificateKind.AGENT, agent_id=uuid7()))
    answer = await machine.get("/projects", headers=stage.makes_key(ada).headers)
    assert (answer.status_code, problem(answer)) == (401, "credentials-differ")


async def test_a_key_is_no_stronger_than_a_certificate_that_has_ended(stage: Stage) -> None:
    ada = owner(stage)
    holder = stage.holds(CertificateKind.PROJECT, project_id=PROJECT, user_id=ada.user_id)
    client = await stage.client(stage.makes_key(ada), holder)
    assert (await client.get(f"/projects/{PROJECT}")).status_code == 200
    stage.tell(holder.fact.model_copy(update={"version": 2, "live": False}))
    answer = await client.get(f"/projects/{PROJECT}")
    assert (answer.status_code, problem(answer)) == (401, "certificate-not-live")


def test_keys_that_somebody_makes_up_push_no_verified_token_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticate, "REMEMBERED", 10)
    verified: list[str] = []

    def verify(token: str, _keys: Any) -> tokens.Claims:
        verified.append(token)
        return tokens.Claims(uuid7(), uuid7(), int(time.time()) + 60, "k1")

    monkeypatch.setattr(tokens, "verify", verify)
    made = Authenticator("hortus.internal", dict)
    for _ in range(50):
        made.credential(b"Bearer a.b.c", None)
        assert made.credential(f"Bearer {new_key(uuid7())}".encode(), None).key is not None
    assert verified == ["a.b.c"]
