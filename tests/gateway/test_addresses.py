"""Whose address the ledger keeps: a stranger's, and at the doors of auth everybody's; no member's at their work."""

from typing import Any

import pytest
from uuid_utils.compat import uuid7

from chassis.audit import canonical
from contracts.events import AuditRecord, CertificateKind
from contracts.policy import POLICY, Service, Who
from contracts.roles import ClusterRole, Role
from gateway.spool import segments
from tests.gateway.stage import Stage, say

PROJECT = uuid7()
HERE = {"127.0.0.1", "::1"}


async def refuse(_scope: object, _receive: object, send: object) -> None:
    await say(send, 401, b"{}", (b"hortus-reason", b"sign-in-refused"))


async def the_record(stage: Stage) -> dict[str, Any]:
    (record,) = await stage.records()
    return record


async def test_a_refused_sign_in_leaves_a_record_with_the_address_and_without_what_was_typed(stage: Stage) -> None:
    stage.answer = refuse
    answer = await (await stage.client()).post("/sessions", json={"username": "ada00000", "password": "correct horse", "code": "123456"})
    assert answer.status_code == 401
    record = await the_record(stage)
    assert (record["action"], record["actor"]["principal"], record["outcome"], record["reason"]) == (
        "session.create",
        "nobody",
        "refused",
        "sign-in-refused",
    )
    assert record["address"] in HERE
    assert record["address"] == stage.seen[-1]["headers"]["hortus-source"], "auth counts tries by the same address"
    assert record["request_id"] == stage.seen[-1]["headers"]["hortus-request"], "auth's own record has the same request"
    (line,) = segments(stage.gateway.spool.folder)[0][1].read_bytes().splitlines()
    assert canonical(AuditRecord.model_validate_json(line)) == line
    assert not [typed for typed in (b"ada00000", b"correct horse", b"123456") if typed in line]


async def test_a_member_who_reads_a_list_of_datasets_leaves_no_address(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    assert (await (await stage.client(ada)).get(f"/projects/{PROJECT}/datasets")).status_code == 200
    record = await the_record(stage)
    assert record["actor"]["user_id"] == str(ada.user_id)
    assert "address" not in record


@pytest.mark.parametrize("path", ["/projects/{other}", "/projects/{project}/members", "/audit/records"])
async def test_a_known_caller_who_is_refused_leaves_none_either(stage: Stage, path: str) -> None:
    bob = stage.signs_in()
    stage.joins(bob, PROJECT, Role.DATA_SCIENTIST)
    client = await stage.client(bob)
    answer = await client.request("POST" if "members" in path else "GET", path.format(other=uuid7(), project=PROJECT))
    assert answer.status_code in (403, 404)
    record = await the_record(stage)
    assert (record["outcome"], "address" in record) == ("refused", False)


async def test_keys_agents_and_jobs_leave_none(stage: Stage) -> None:
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    agent = stage.holds(CertificateKind.AGENT, agent_id=uuid7())
    await (await stage.client(stage.makes_key(ada))).get("/projects")
    await (await stage.client(holder=agent)).post("/leases")
    first, second = await stage.records()
    assert (first["actor"]["user_id"], second["actor"]["principal"]) == (str(ada.user_id), "agent")
    assert "address" not in first | second


@pytest.mark.parametrize(("method", "path"), [("POST", "/sessions/current/factor"), ("GET", "/users/me"), ("DELETE", "/sessions")])
async def test_somebody_who_signed_in_leaves_one_at_the_doors_of_auth(stage: Stage, method: str, path: str) -> None:
    ada = stage.signs_in()
    await (await stage.client(ada)).request(method, path)
    record = await the_record(stage)
    assert record["actor"]["user_id"] == str(ada.user_id)
    assert record["address"] in HERE


async def test_an_administrators_deed_at_auth_says_where_it_came_from_allowed_or_refused(stage: Stage) -> None:
    for someone in (stage.signs_in(ClusterRole.ADMINISTRATOR), stage.signs_in()):
        await (await stage.client(someone)).get("/users")
    records = await stage.records()
    assert [(record["outcome"], record["address"] in HERE) for record in records] == [("allowed", True), ("refused", True)]


@pytest.mark.parametrize("shown", ["Bearer x", "Bearer hortus_" + "0" * 32 + "_" + "a" * 43, None])
async def test_who_shows_nothing_or_nothing_that_counts_leaves_one_at_every_door(stage: Stage, shown: str | None) -> None:
    client = await stage.client()
    answer = await client.get("/projects", headers={"Authorization": shown} if shown else {})
    assert answer.status_code == 401
    record = await the_record(stage)
    assert (record["actor"], record["address"] in HERE) == ({"principal": "nobody"}, True)


async def test_a_record_without_a_caller_has_an_address_and_the_other_way_round_outside_auth(stage: Stage) -> None:
    """What the docs promise, over a way into each service that is on the stage, and past all of them."""
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    for client in (await stage.client(), await stage.client(ada)):
        for path in ("/nowhere", "/trust", "/jwks.json", "/oidc", "/projects", f"/projects/{PROJECT}", f"/projects/{PROJECT}/datasets"):
            await client.get(path)
    records = await stage.records()
    assert len(records) == 14
    doors_of_auth = {action.value for action, rule in POLICY.items() if rule.service is Service.AUTH}
    for record in records:
        stranger = record["actor"] == {"principal": Who.NOBODY.value}
        assert ("address" in record) == (stranger or record["action"] in doors_of_auth), record
    assert {record["actor"]["principal"] for record in records} == {"nobody", "person"}


async def test_an_address_that_a_header_claims_is_never_recorded(stage: Stage) -> None:
    stage.answer = refuse
    claimed = {"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.7", "Forwarded": "for=203.0.113.7", "Hortus-Source": "203.0.113.7"}
    await (await stage.client()).post("/sessions", json={}, headers=claimed)
    assert (await the_record(stage))["address"] in HERE
