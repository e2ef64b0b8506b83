"""The doors of jobs on a real PostgreSQL."""

import asyncio
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from chassis import inbox
from chassis.csr import read_csr
from contracts.events import Agent, Certificate, CertificateKind, Job, Run, RunState, ShareState
from contracts.policy import LONGEST_RUN_S
from contracts.roles import NOBODY, Actor
from services.jobs import service
from services.jobs.service import known
from tests.jobs.scene import LONG_AGO, Scene, certificate, csr, dataset, member, share
from tests.world import OURS, THEIRS, World, administrator, agent, auditor, job, reason, scientist, stranger

KIB = 1024


async def test_a_member_submits_a_job_and_everybody_is_told(scene: Scene) -> None:
    made = await scene.submitted(arguments=["--epochs", "3"], resources={"wall_seconds": LONGEST_RUN_S})
    assert made["state"] == "queued"
    assert made["inputs"] == [str(scene.dataset_id)]
    job_fact, run_fact = await scene.world.said()
    assert isinstance(job_fact, Job)
    assert isinstance(run_fact, Run)
    assert (job_fact.state, run_fact.state, run_fact.fencing_token, run_fact.csr) == (RunState.QUEUED, RunState.QUEUED, 0, None)
    assert run_fact.output_dataset_id == UUID(made["output_dataset_id"])
    (record,) = await scene.world.recorded()
    assert record["action"] == "job.submit"
    assert record["resource"]["job_id"] == made["job_id"]


async def test_the_program_stands_in_no_fact_and_in_no_record(scene: Scene) -> None:
    await scene.submitted(program="print('sesame-of-patient-7')")
    said = "".join(fact.model_dump_json() for fact in await scene.world.said())
    assert "sesame" not in said + json.dumps(await scene.world.recorded())


@pytest.mark.parametrize(
    "changes",
    [
        {"program": ""},
        {"program": "x" * (64 * KIB + 1)},
        {"program": "é" * (40 * KIB)},
        {"program": "a\0b"},
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"name": "a\u202eb"},
        {"environment": "../etc"},
        {"environment": "Torch"},
        {"arguments": ["x"] * 33},
        {"arguments": ["a\0"]},
        {"inputs": ["no id"]},
        {"resources": {"wall_seconds": 0}},
        {"resources": {"wall_seconds": LONGEST_RUN_S + 1}},
        {"resources": {"memory_mib": 10**12}},
        {"resources": {"cores": "many"}},
        {"resources": {"network": True}},
        {"surprise": 1},
    ],
)
async def test_bad_submissions_are_refused_and_nothing_is_stored(scene: Scene, changes: dict[str, Any]) -> None:
    answer = await scene.submit(**changes)
    assert answer.status_code == 422
    assert await scene.world.said() == []
    assert (await scene.world.sql("SELECT count(*) FROM jobs"))[0][0] == 0


async def test_an_input_named_twice_is_refused(scene: Scene) -> None:
    assert (await scene.submit(inputs=[str(scene.dataset_id)] * 2)).status_code == 422


async def test_inputs_that_the_project_cannot_read_are_refused(scene: Scene) -> None:
    theirs = uuid7()
    await scene.world.hear(dataset(theirs, THEIRS))
    for wanted in (theirs, uuid7()):
        answer = await scene.submit(inputs=[str(wanted)])
        assert (answer.status_code, reason(answer)) == (422, "input-not-readable")
    await scene.world.hear(share(theirs, ShareState.OFFERED, 1))
    assert (await scene.submit(inputs=[str(theirs)])).status_code == 422
    await scene.world.hear(share(theirs, ShareState.ACCEPTED, 2))
    assert (await scene.submit(inputs=[str(theirs)])).status_code == 201


async def test_a_deleted_dataset_is_no_input(scene: Scene) -> None:
    await scene.world.hear(dataset(scene.dataset_id, deleted=True, version=2))
    assert reason(await scene.submit()) == "input-not-readable"


async def test_a_membership_that_has_not_arrived_is_waited_for_and_not_denied(scene: Scene) -> None:
    answer = await scene.submit(scientist(OURS))
    assert (answer.status_code, reason(answer)) == (503, "not-known-here-yet")


async def test_a_stranger_does_not_learn_of_the_project(scene: Scene) -> None:
    made = await scene.submitted()
    for method, path in (("POST", "/jobs"), ("GET", "/jobs"), ("GET", f"/jobs/{made['job_id']}"), ("GET", f"/jobs/{made['job_id']}/log")):
        answer = await scene.world.request(method, f"/projects/{OURS}{path}", stranger(OURS), json={})
        assert answer.status_code == 404


async def test_a_job_is_found_in_its_own_project_only(scene: Scene) -> None:
    made = await scene.submitted()
    answer = await scene.world.get(f"/projects/{THEIRS}/jobs/{made['job_id']}", scientist(THEIRS))
    assert answer.status_code == 404


async def test_jobs_are_listed_page_by_page_newest_first(scene: Scene) -> None:
    names = [(await scene.submitted(name=f"job {number}"))["name"] for number in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        page = (await scene.world.get(f"/projects/{OURS}/jobs?limit=2{after}", scene.scientist)).json()
        seen += [item["name"] for item in page["items"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert seen == names[::-1]


async def test_a_submission_sent_twice_with_one_key_makes_one_job(scene: Scene) -> None:
    body = {"name": "train", "program": "print(1)"}
    first, second = [await scene.world.post(f"/projects/{OURS}/jobs", scene.scientist, json=body, key="k") for _ in range(2)]
    assert first.json() == second.json()
    assert (await scene.world.sql("SELECT count(*) FROM jobs"))[0][0] == 1


# Agents


@pytest.mark.parametrize(("who", "status"), [(NOBODY, 401), (scientist(OURS), 403), (administrator(), 403), (job(uuid7()), 403)])
async def test_only_agents_take_leases(scene: Scene, who: Actor, status: int) -> None:
    await scene.submitted()
    assert (await scene.take(who)).status_code == status
    assert (await scene.world.sql("SELECT state FROM runs"))[0][0] == "queued"


async def test_nothing_begins_while_it_cannot_be_known_whose_runs_may(scene: Scene) -> None:
    await scene.submitted()
    await scene.world.hears_until((await scene.world.now() - timedelta(seconds=1)).isoformat())
    answer = await scene.take()
    assert (answer.status_code, reason(answer), answer.headers["retry-after"]) == (503, "cannot-decide", "1")
    await scene.world.hears_until("infinity")
    assert (await scene.take()).status_code == 200


async def test_no_lease_is_prolonged_and_no_success_counts_while_it_cannot_be_known_whose_runs_may_go_on(scene: Scene) -> None:
    job_made, lease = await scene.running()
    await scene.said_of_runs()
    before = await scene.run_of(job_made)
    await scene.world.hears_until((await scene.world.now() - timedelta(seconds=1)).isoformat())
    for answer in (await scene.tell(lease, "renewal"), await scene.tell(lease, "report", state="succeeded", exit_code=0)):
        assert (answer.status_code, reason(answer), answer.headers["retry-after"]) == (503, "cannot-decide", "1")
    after = await scene.run_of(job_made)
    assert (after.state, after.lease_until) == ("running", before.lease_until)
    assert await scene.said_of_runs() == []
    await scene.world.hears_until("infinity")
    assert (await scene.tell(lease, "renewal")).status_code == 200
    assert (await scene.tell(lease, "report", state="succeeded", exit_code=0)).status_code == 200
    assert await scene.said_of_runs() == ["succeeded"]


async def test_no_job_is_said_to_go_on_while_it_cannot_be_known_whether_it_may(scene: Scene) -> None:
    running, lease = await scene.running()
    waiting = await scene.submitted()
    await scene.world.hears_until((await scene.world.now() - timedelta(seconds=1)).isoformat())
    places = [f"/projects/{OURS}/jobs", *(f"/projects/{OURS}/jobs/{each['job_id']}" for each in (waiting, running))]
    for answer in [await scene.world.get(place, scene.owner) for place in places]:
        assert (answer.status_code, reason(answer), answer.headers["retry-after"]) == (503, "cannot-decide", "1")
    told = await scene.world.get(f"/leases/{lease['run_id']}", scene.agent)
    assert (told.status_code, reason(told)) == (503, "cannot-decide")


@pytest.mark.parametrize("asked", ["one", "all", "its lease"])
async def test_a_job_that_ends_while_it_is_asked_for_is_not_said_to_go_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """What was late arrives between two statements of the question."""
    made, lease = await scene.running()
    await scene.world.hears_until((await scene.world.now() - timedelta(seconds=1)).isoformat())

    async def hears_it_all_first(database: Any, topics: Any) -> bool:
        await scene.world.hear(member(scene.scientist_id, None, version=2))
        await scene.world.hears_until("infinity")
        return await inbox.up_to_date(database, topics)

    monkeypatch.setattr(known, "up_to_date", hears_it_all_first)
    if asked == "its lease":
        told = await scene.world.get(f"/leases/{lease['run_id']}", scene.agent)
        assert (told.status_code, told.json()["cancelled"]) == (200, True)
        return
    told = await scene.world.get(f"/projects/{OURS}/jobs" + (f"/{made['job_id']}" if asked == "one" else ""), scene.owner)
    [shown] = [told.json()] if asked == "one" else told.json()["items"]
    assert (told.status_code, shown["state"]) == (200, "cancelled")


async def test_what_has_failed_or_ended_is_said_also_while_nothing_new_is_heard(scene: Scene) -> None:
    _, failed = await scene.running()
    job_made, cancelled = await scene.running()
    await scene.world.hears_until((await scene.world.now() - timedelta(seconds=1)).isoformat())
    assert (await scene.tell(failed, "report", state="failed", exit_code=3)).status_code == 200
    assert (await scene.world.post(f"/projects/{OURS}/jobs/{job_made['job_id']}/cancellation", scene.owner)).status_code == 202
    renewed = await scene.tell(cancelled, "renewal")
    assert (renewed.status_code, renewed.json()["cancelled"]) == (200, True)


async def test_an_agent_that_is_not_known_takes_no_lease(scene: Scene) -> None:
    answer = await scene.take(agent())
    assert (answer.status_code, reason(answer)) == (403, "unknown-agent")


async def test_agents_are_announced_by_administrators_alone(scene: Scene) -> None:
    for who in (scene.owner, auditor(), scene.agent):
        assert (await scene.world.post("/agents", who, json={"name": "node"})).status_code == 403
    assert [row["name"] for row in (await scene.world.get("/agents", administrator())).json()["items"]] == ["node 1"]


async def test_a_token_is_shown_once_and_stored_as_its_hash(scene: Scene) -> None:
    answer = await scene.world.post("/agents", administrator(), json={"name": "node 2"}, key="k")
    token = answer.json()["token"]
    again = await scene.world.post("/agents", administrator(), json={"name": "node 2"}, key="k")
    assert token not in again.text
    stored = await scene.world.sql("SELECT row_to_json(agents)::text FROM agents")
    assert not any(token in row[0] for row in stored)
    assert token not in json.dumps(await scene.world.recorded())


async def test_an_agent_enrols_once_its_certificate_is_issued(scene: Scene) -> None:
    announced = (await scene.world.post("/agents", administrator(), json={"name": "node 2"})).json()
    await scene.world.said()
    request = csr()
    answer = await scene.world.post("/agents/enrolment", NOBODY, json={"token": announced["token"], "csr": request})
    assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
    (fact,) = await scene.world.said()
    assert isinstance(fact, Agent)
    assert (fact.csr, fact.version) == (request, 2)
    await scene.world.hear(
        Certificate(
            certificate_id="a9",
            version=1,
            kind=CertificateKind.AGENT,
            fingerprint="f",
            agent_id=UUID(announced["agent_id"]),
            csr_sha256=read_csr(request).sha256,
            not_before=LONG_AGO,
            not_after=LONG_AGO,
            live=True,
            chain="CHAIN",
        )
    )
    answer = await scene.world.post("/agents/enrolment", NOBODY, json={"token": announced["token"], "csr": request})
    assert (answer.status_code, answer.json()["chain"]) == (200, "CHAIN")
    assert await scene.world.said() == []


async def test_an_enrolment_token_serves_one_key(scene: Scene) -> None:
    announced = (await scene.world.post("/agents", administrator(), json={"name": "node 2"})).json()
    assert (await scene.world.post("/agents/enrolment", NOBODY, json={"token": announced["token"], "csr": csr()})).status_code == 202
    for token, request in ((announced["token"], csr()), ("agent_" + "x" * 40, csr())):
        answer = await scene.world.post("/agents/enrolment", NOBODY, json={"token": token, "csr": request})
        assert (answer.status_code, reason(answer)) == (403, "enrolment-token-refused")


async def test_an_enrolment_token_that_nobody_used_in_a_day_is_refused(scene: Scene) -> None:
    announced = (await scene.world.post("/agents", administrator(), json={"name": "node 2"})).json()
    await scene.world.sql("UPDATE agents SET enrol_before = now() WHERE name = 'node 2'")
    answer = await scene.world.post("/agents/enrolment", NOBODY, json={"token": announced["token"], "csr": csr()})
    assert (answer.status_code, reason(answer)) == (403, "enrolment-token-refused")
    left = await scene.world.sql("SELECT extract(epoch FROM enrol_before - created_at) FROM agents WHERE name = 'node 1'")
    assert left[0][0] == 24 * 3600


async def test_a_withdrawn_agent_takes_nothing_and_what_it_ran_waits_for_another(scene: Scene) -> None:
    made, lease = await scene.running()
    await scene.world.said()
    for who in (scene.owner, auditor(), scene.agent):
        assert (await scene.world.delete(f"/agents/{scene.agent.agent_id}", who)).status_code == 403
    for _ in range(2):
        assert (await scene.world.delete(f"/agents/{scene.agent.agent_id}", administrator())).status_code == 204
    told = await scene.world.said()
    assert [(fact.live, fact.csr) for fact in told if isinstance(fact, Agent)] == [(False, None)]
    assert [(fact.state, fact.agent_id, fact.csr) for fact in told if isinstance(fact, Run)] == [(RunState.QUEUED, None, None)]
    for answer in (await scene.take(), await scene.tell(lease, "renewal"), await scene.tell(lease, "report", state="succeeded")):
        assert (answer.status_code, reason(answer)) == (403, "unknown-agent")
    assert (await scene.job(made["job_id"]))["state"] == "queued"
    assert (await scene.world.delete(f"/agents/{uuid7()}", administrator())).status_code == 404


async def test_a_lease_that_is_taken_while_its_agent_is_withdrawn_is_given_back(scene: Scene) -> None:
    await scene.submitted()
    async with scene.world.work(scene.agent) as taking:
        assert await service.leases.take_lease(taking, csr(), service.leases.Terms(10, 3)) is not None
        withdrawing = asyncio.create_task(scene.world.delete(f"/agents/{scene.agent.agent_id}", administrator()))
        waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        async with asyncio.timeout(10):
            while not await scene.world.sql(waits):
                await asyncio.sleep(0.02)
    assert (await withdrawing).status_code == 204
    assert (await scene.world.sql("SELECT state, agent_id FROM runs"))[0] == ("queued", None)


async def test_a_request_that_is_no_csr_is_refused(scene: Scene) -> None:
    await scene.submitted()
    for request in ("nonsense", csr().replace("A", "B")):
        answer = await scene.take(request=request)
        assert (answer.status_code, reason(answer)) == (422, "csr-refused")


# Leases


async def test_an_agent_takes_the_oldest_run_with_all_that_it_needs(scene: Scene) -> None:
    first = await scene.submitted(name="first", arguments=["a"])
    await scene.submitted(name="second")
    await scene.said_of_runs()
    request = csr()
    answer = await scene.take(request=request)
    lease = answer.json()
    assert lease["run_id"] == first["run_id"]
    assert (lease["fencing_token"], lease["state"], lease["program"], lease["arguments"]) == (1, "leased", "print(1)", ["a"])
    assert lease["inputs"] == [{"dataset_id": str(scene.dataset_id), "name": "wdbc"}]
    run_fact = (await scene.world.said())[1]
    assert isinstance(run_fact, Run)
    assert (run_fact.state, run_fact.csr, run_fact.agent_id) == (RunState.LEASED, request, scene.agent.agent_id)
    assert answer.headers["Hortus-Facts"].split(", ")[1] == f"runs:{first['run_id']}:{run_fact.version}"


async def test_nothing_waits_is_an_empty_answer(scene: Scene) -> None:
    assert (await scene.take()).status_code == 204


async def test_an_agent_that_missed_the_answer_gets_the_same_lease_again(scene: Scene) -> None:
    await scene.submitted()
    await scene.submitted()
    request = csr()
    first, second = [(await scene.take(request=request)).json() for _ in range(2)]
    assert first == second


async def test_two_agents_never_get_the_same_run(scene: Scene) -> None:
    other = agent(UUID((await scene.world.post("/agents", administrator(), json={"name": "node 2"})).json()["agent_id"]))
    for _ in range(6):
        await scene.submitted()
    answers = await asyncio.gather(*[scene.take(who) for who in (scene.agent, other) * 3])
    taken = [answer.json()["run_id"] for answer in answers if answer.status_code == 200]
    assert len(taken) == len(set(taken))
    assert taken


async def test_the_certificate_of_the_lease_arrives_with_it(scene: Scene) -> None:
    await scene.submitted()
    lease = await scene.leased()
    assert lease["certificate"] is None
    await scene.world.hear(certificate(UUID(lease["run_id"]), 1))
    assert (await scene.world.get(f"/leases/{lease['run_id']}", scene.agent)).json()["certificate"] == "CHAIN"


async def test_a_certificate_of_another_token_is_not_the_leases(scene: Scene) -> None:
    await scene.submitted()
    lease = await scene.leased()
    await scene.world.hear(certificate(UUID(lease["run_id"]), 2))
    assert (await scene.world.get(f"/leases/{lease['run_id']}", scene.agent)).json()["certificate"] is None


async def test_a_waiting_look_at_a_lease_returns_when_something_happens(scene: Scene) -> None:
    await scene.submitted()
    lease = await scene.leased()
    looking = asyncio.create_task(scene.world.get(f"/leases/{lease['run_id']}?seen={lease['version']}&wait=5", scene.agent))
    await asyncio.sleep(0.3)
    assert not looking.done()
    await scene.world.hear(certificate(UUID(lease["run_id"]), 1))
    answer = await asyncio.wait_for(looking, 1)
    assert answer.json()["certificate"] == "CHAIN"


async def test_another_agent_cannot_touch_a_lease(scene: Scene) -> None:
    other = agent(UUID((await scene.world.post("/agents", administrator(), json={"name": "node 2"})).json()["agent_id"]))
    _, lease = await scene.running()
    assert reason(await scene.world.get(f"/leases/{lease['run_id']}", other)) == "lease-lost"
    for what, body in (("renewal", {}), ("log", {"offset": 0, "text": "x"}), ("report", {"state": "succeeded"})):
        answer = await scene.tell(lease, what, other, **body)
        assert (answer.status_code, reason(answer)) == (409, "lease-lost")


async def test_an_older_fencing_token_changes_nothing(scene: Scene) -> None:
    job_made, lease = await scene.running()
    await scene.world.sql("UPDATE runs SET lease_until = now() - interval '1 second'")
    async with scene.world.work() as uow:
        assert await service.leases.end_what_is_over(uow, service.leases.Terms(5, 2)) == 1
    renewed = await scene.leased()
    assert renewed["fencing_token"] == 2
    for what, body in (("renewal", {}), ("log", {"offset": 0, "text": "x"}), ("report", {"state": "succeeded"})):
        assert reason(await scene.tell(lease, what, **body)) == "lease-lost"
    assert (await scene.job(job_made["job_id"]))["state"] == "leased"


async def test_a_lease_that_ran_out_cannot_be_renewed(scene: Scene) -> None:
    _, lease = await scene.running()
    await scene.world.sql("UPDATE runs SET lease_until = now()")
    assert reason(await scene.tell(lease, "renewal")) == "lease-lost"


async def test_renewal_prolongs_the_lease_by_the_databases_clock(scene: Scene) -> None:
    _, lease = await scene.running()
    await scene.world.sql("UPDATE runs SET lease_until = now() + interval '1 second'")
    assert (await scene.tell(lease, "renewal")).status_code == 200
    left = (await scene.world.sql("SELECT extract(epoch FROM lease_until - now()) FROM runs"))[0][0]
    assert 3 < left <= 5


async def test_a_run_goes_through_its_states_and_each_is_said(scene: Scene) -> None:
    made, lease = await scene.running()
    assert (await scene.tell(lease, "report", state="succeeded", exit_code=0, metrics={"accuracy": 0.97})).status_code == 200
    assert await scene.said_of_runs() == ["queued", "leased", "running", "succeeded"]
    done = await scene.job(made["job_id"])
    assert (done["state"], done["metrics"], done["exit_code"]) == ("succeeded", {"accuracy": 0.97}, 0)
    assert done["started_at"] <= done["ended_at"]


async def test_whoever_reads_that_a_job_has_ended_is_told_what_to_wait_for_elsewhere(scene: Scene) -> None:
    made = await scene.ended()
    told = [fact for fact in await scene.world.said() if isinstance(fact, Run)][-1]
    answer = await scene.world.get(f"/projects/{OURS}/jobs/{made['job_id']}", scientist(OURS, scene.scientist_id))
    assert (answer.json()["state"], told.state) == ("succeeded", RunState.SUCCEEDED)
    assert answer.headers["hortus-facts"] == f"runs:{told.run_id}:{told.version}"
    assert await scene.world.said() == []


async def test_the_same_report_twice_is_said_once(scene: Scene) -> None:
    _, lease = await scene.running()
    await scene.said_of_runs()
    for _ in range(2):
        assert (await scene.tell(lease, "report", state="failed", exit_code=3)).status_code == 200
    assert await scene.said_of_runs() == ["failed"]


async def test_an_ended_run_does_not_end_again(scene: Scene) -> None:
    _, lease = await scene.running()
    await scene.tell(lease, "report", state="failed", exit_code=3)
    assert reason(await scene.tell(lease, "report", state="succeeded", exit_code=0)) == "lease-lost"


async def test_a_run_that_never_started_does_not_succeed(scene: Scene) -> None:
    await scene.submitted()
    lease = await scene.leased()
    assert reason(await scene.tell(lease, "report", state="succeeded", exit_code=0)) == "run-has-ended"


@pytest.mark.parametrize("body", [{"state": "queued"}, {"state": "done"}, {"state": "failed", "exit_code": 999}])
async def test_a_report_of_nonsense_is_refused(scene: Scene, body: dict[str, Any]) -> None:
    _, lease = await scene.running()
    assert (await scene.tell(lease, "report", **body)).status_code == 422


async def test_a_metric_that_is_no_finite_number_is_refused(scene: Scene) -> None:
    _, lease = await scene.running()
    text = json.dumps({"fencing_token": 1, "state": "running", "metrics": {"loss": float("nan")}})
    answer = await scene.world.post(
        f"/leases/{lease['run_id']}/report", scene.agent, content=text, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422


async def test_a_cancelled_run_is_over_at_once_and_its_agent_hears_it(scene: Scene) -> None:
    made, lease = await scene.running()
    answer = await scene.world.post(f"/projects/{OURS}/jobs/{made['job_id']}/cancellation", scene.owner)
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    renewed = (await scene.tell(lease, "renewal")).json()
    assert (renewed["cancelled"], renewed["state"]) == (True, "cancelled")
    assert reason(await scene.tell(lease, "report", state="succeeded", exit_code=0)) == "lease-lost"
    assert reason(await scene.tell(lease, "log", offset=0, text="late")) == "lease-lost"
    assert (await scene.said_of_runs())[-1] == "cancelled"


async def test_cancelling_what_has_ended_changes_nothing(scene: Scene) -> None:
    made = await scene.ended()
    await scene.said_of_runs()
    answer = await scene.world.post(f"/projects/{OURS}/jobs/{made['job_id']}/cancellation", scene.owner)
    assert (answer.status_code, answer.json()["state"]) == (202, "succeeded")
    assert await scene.said_of_runs() == []


# What people may read


async def test_a_scientist_reads_a_short_log_and_is_charged_for_it_once(scene: Scene) -> None:
    made = await scene.ended("epoch 1\n")
    await scene.world.recorded()
    first, second = [(await scene.log(made["job_id"])).json() for _ in range(2)]
    assert first == second == {"text": "epoch 1\n", "truncated": False, "budget_left": 64 * KIB - 8, "run_state": "succeeded"}
    (record,) = await scene.world.recorded()
    assert record["resource"]["log_bytes"] == "8"


async def test_printing_a_whole_table_shows_a_scientist_no_more_than_the_budget(scene: Scene) -> None:
    made = await scene.ended("0123456789abcdef" * 8000)
    log = (await scene.log(made["job_id"])).json()
    assert len(log["text"]) == 60 * KIB
    assert log["truncated"]
    assert log["text"].endswith("0123456789abcdef")
    assert (await scene.log(made["job_id"])).json()["text"] == log["text"]
    another = await scene.ended("more")
    answer = await scene.log(another["job_id"])
    assert (answer.status_code, reason(answer)) == (403, "log-budget-used-up")
    assert "more" not in answer.text


async def test_metrics_are_left_room_when_the_log_has_used_the_rest(scene: Scene) -> None:
    made = await scene.ended("x" * 70_000, metrics={"accuracy": 0.97})
    await scene.log(made["job_id"])
    assert (await scene.job(made["job_id"]))["metrics"] == {"accuracy": 0.97}


async def test_metrics_are_withheld_when_the_budget_is_used_up(scene: Scene) -> None:
    await scene.world.sql(
        "INSERT INTO budgets VALUES (:p, :u, to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD'), 65536)", p=OURS, u=scene.scientist_id
    )
    made = await scene.ended("x", metrics={"patient": 7.0}, state="failed", exit_code=42, reason="It broke.")
    shown = await scene.job(made["job_id"])
    assert (shown["metrics"], shown["exit_code"], shown["reason"], shown["withheld"]) == ({}, None, None, True)
    assert shown["state"] == "failed"


async def test_a_list_shows_no_small_results(scene: Scene) -> None:
    await scene.ended("x", metrics={"patient": 7.0})
    (item,) = (await scene.world.get(f"/projects/{OURS}/jobs", scene.scientist)).json()["items"]
    assert (item["metrics"], item["withheld"]) == ({}, True)


async def test_budgets_are_each_persons_own(scene: Scene) -> None:
    made = await scene.ended("x" * 70_000)
    await scene.log(made["job_id"])
    colleague = scientist(OURS)
    assert colleague.user_id is not None
    await scene.world.hear(member(colleague.user_id))
    assert len((await scene.log(made["job_id"], colleague)).json()["text"]) == 60 * KIB


async def test_a_data_owner_reads_freely_what_comes_from_their_own_project(scene: Scene) -> None:
    made = await scene.ended("x" * 70_000)
    other = await scene.ended("y" * 70_000)
    assert len((await scene.log(made["job_id"], scene.owner)).json()["text"]) == 64 * KIB
    assert len((await scene.log(other["job_id"], scene.owner)).json()["text"]) == 64 * KIB


async def test_a_data_owner_is_bound_over_data_of_another_project(scene: Scene) -> None:
    theirs = uuid7()
    await scene.world.hear(dataset(theirs, THEIRS), share(theirs, ShareState.ACCEPTED, 1))
    copy = uuid7()
    await scene.world.hear(dataset(copy, OURS, origins=(theirs,)))
    for wanted, length in ((theirs, 60 * KIB), (copy, 0)):
        made, lease = await scene.running(inputs=[str(wanted)])
        await scene.tell(lease, "log", offset=0, text="x" * 64 * KIB)
        answer = await scene.log(made["job_id"], scene.owner)
        assert len(answer.json().get("text", "")) == length


async def test_simultaneous_readings_share_one_budget(scene: Scene) -> None:
    made = [await scene.ended("z" * 40_000) for _ in range(4)]
    answers = await asyncio.gather(*[scene.log(each["job_id"]) for each in made])
    assert sum(len(answer.json().get("text", "")) for answer in answers) == 60 * KIB


async def test_a_log_sent_twice_is_kept_once(scene: Scene) -> None:
    made, lease = await scene.running()
    for offset, text in ((0, "one "), (0, "one two "), (4, "two "), (8, "three")):
        answer = await scene.tell(lease, "log", offset=offset, text=text)
        assert answer.status_code == 200
    assert answer.json() == {"offset": 13}
    assert (await scene.log(made["job_id"])).json()["text"] == "one two three"


async def test_a_gap_in_the_log_is_shown_as_truncation(scene: Scene) -> None:
    made, lease = await scene.running()
    await scene.tell(lease, "log", offset=0, text="early")
    await scene.tell(lease, "log", offset=10**6, text="late")
    log = (await scene.log(made["job_id"])).json()
    assert (log["text"], log["truncated"]) == ("late", True)


async def test_a_world_without_the_job_answers_404(world: World) -> None:
    assert (await world.get(f"/projects/{OURS}/jobs/{uuid7()}/log", scientist(OURS))).status_code == 404
