"""The rules of jobs, without a database."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import permutations
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from chassis.csr import CsrRefused, read_csr
from contracts import events
from contracts.events import RunState, ShareState, UserStatus
from contracts.roles import Role
from services.jobs import domain
from services.jobs.models import Agent, Budget, Dataset, Job, Log, Member, Person, Project, Run, Share, Shown
from tests.jobs.scene import certificate, csr

NOW = datetime(2026, 11, 23, 5, 0, tzinfo=UTC)
P1, P2 = UUID(int=1), UUID(int=2)
D1, D2, D3 = UUID(int=11), UUID(int=12), UUID(int=13)
A1, A2 = UUID(int=21), UUID(int=22)
ANY = sorted(RunState)


def a_job() -> Job:
    return Job(
        job_id=UUID(int=31),
        project_id=P1,
        name="train",
        submitted_by=UUID(int=41),
        program="pass",
        environment="python",
        arguments=[],
        inputs=[D1],
        wall_seconds=1,
        memory_mib=1,
        cores=1,
        output_dataset_id=D3,
        submitted_at=NOW,
        version=1,
    )


def a_run(state: RunState = RunState.QUEUED) -> Run:
    run = domain.runs.submit(a_job(), UUID(int=51))
    if state is not RunState.QUEUED:
        domain.leases.lease(run, A1, "csr", NOW, 10)
    if state in (RunState.RUNNING, RunState.SUCCEEDED):
        domain.runs.start(run, NOW)
    if state in domain.runs.ENDED:
        domain.runs.finish(run, state, 0, None, NOW)
    return run


def act(run: Run, step: str) -> None:
    steps: dict[str, Callable[[], object]] = {
        "lease": lambda: domain.leases.lease(run, A1, "csr", NOW, 10),
        "start": lambda: domain.runs.start(run, NOW),
        "succeed": lambda: domain.runs.finish(run, RunState.SUCCEEDED, 0, None, NOW),
        "fail": lambda: domain.runs.finish(run, RunState.FAILED, 1, "why", NOW),
        "cancel": lambda: domain.runs.cancel(run, "why", NOW),
        "expire": lambda: domain.leases.expire(run, 3, NOW),
    }
    steps[step]()


@given(st.lists(st.sampled_from(["lease", "start", "succeed", "fail", "cancel", "expire"]), max_size=30))
def test_whatever_happens_tokens_grow_and_an_ended_run_stays_as_it_ended(steps: list[str]) -> None:
    run = a_run()
    token, ended = 0, None
    for step in steps:
        before = run.state
        try:
            act(run, step)
        except domain.runs.RunHasEnded:
            assert run.state == before
        assert run.fencing_token >= token
        assert (run.fencing_token > token) == (before == "queued" and run.state == "leased")
        assert run.fencing_token <= 3
        assert (run.lease_until is not None) == (run.state in ("leased", "running"))
        assert (run.ended_at is not None) == (run.state in domain.runs.ENDED)
        assert ended is None or run.state == ended
        token = run.fencing_token
        ended = run.state if run.state in domain.runs.ENDED else None


@pytest.mark.parametrize("state", ANY)
def test_every_state_can_be_left_only_as_the_table_says(state: RunState) -> None:
    allowed = {
        RunState.QUEUED: {"lease", "cancel"},
        RunState.LEASED: {"start", "fail", "cancel", "expire"},
        RunState.RUNNING: {"start", "succeed", "fail", "cancel", "expire"},
        RunState.SUCCEEDED: {"succeed", "cancel"},
        RunState.FAILED: {"fail", "cancel"},
        RunState.CANCELLED: {"cancel"},
    }
    for step in ("lease", "start", "succeed", "fail", "cancel", "expire"):
        run = a_run(state)
        if step in allowed[state]:
            act(run, step)
        else:
            with pytest.raises(domain.runs.RunHasEnded):
                act(run, step)
        if state in domain.runs.ENDED:
            assert run.state == state


@pytest.mark.parametrize("minutes", [None, 0, 59])
def test_a_run_whose_machines_go_away_before_it_gets_anywhere_fails_after_the_last_lease(minutes: int | None) -> None:
    run, now = a_run(), NOW
    for token in (1, 2, 3):
        domain.leases.lease(run, A1, "csr", now, 10)
        assert run.fencing_token == token
        if minutes is not None:
            domain.runs.start(run, now)
            now += timedelta(minutes=minutes)
        domain.leases.expire(run, 3, now)
    why = "The machine that ran it could not be reached any more, 3 times in a row before it had run for an hour."
    assert (run.state, run.reason) == ("failed", why)


def test_a_long_run_outlives_any_number_of_restarts() -> None:
    run, now = a_run(), NOW
    for ran in (60, 0, 0, 90, 0, 0, 60, 60, 60):
        domain.leases.lease(run, A1, "csr", now, 10)
        domain.runs.start(run, now)
        now += timedelta(minutes=ran)
        domain.leases.expire(run, 3, now)
        assert run.state == "queued"
    assert run.fencing_token == 9


def test_a_lease_that_is_given_back_is_not_a_lost_one() -> None:
    run = a_run()
    for _ in range(5):
        domain.leases.lease(run, A1, "csr", NOW, 10)
        domain.runs.release(run)
    domain.leases.lease(run, A1, "csr", NOW, 10)
    domain.leases.expire(run, 2, NOW)
    assert (run.state, run.lost) == ("queued", 1)


def test_a_requeued_run_keeps_nothing_of_its_lease() -> None:
    run = a_run(RunState.LEASED)
    domain.runs.certify(run, certificate(run.run_id, 1))
    domain.leases.expire(run, 3, NOW)
    assert (run.agent_id, run.csr, run.certificate, run.certificate_id, run.announced_at) == (None,) * 5


@pytest.mark.parametrize(
    ("agent", "token", "after", "held"),
    [
        (A1, 1, 0, True),
        (A2, 1, 0, False),
        (A1, 2, 0, False),
        (A1, 0, 0, False),
        (None, 1, 0, False),
        (A1, 1, 10, False),
        (A1, 1, 9.9, True),
    ],
)
def test_a_lease_is_held_by_one_agent_with_one_token_until_its_end(agent: UUID | None, token: int, after: float, held: bool) -> None:
    run = a_run(RunState.LEASED)
    now = NOW + timedelta(seconds=after)
    if held:
        assert domain.leases.lease_is_held(run, agent, token, now) is run
    else:
        with pytest.raises(domain.leases.LeaseLost):
            domain.leases.lease_is_held(run, agent, token, now)


def test_a_certificate_counts_for_the_present_lease_alone() -> None:
    run = a_run(RunState.LEASED)
    assert not domain.runs.certify(run, certificate(run.run_id, 2))
    assert not domain.runs.certify(run, certificate(run.run_id, 1, live=False))
    assert domain.runs.certify(run, certificate(run.run_id, 1))
    assert not domain.runs.certify(a_run(RunState.FAILED), certificate(run.run_id, 1))


def test_a_csr_is_told_only_while_the_lease_lives() -> None:
    for state in ANY:
        fact = domain.runs.run_fact(a_job(), a_run(state))
        assert (fact.csr is not None) == (state in (RunState.LEASED, RunState.RUNNING))


# Submitting


def a_member(role: Role | None = Role.DATA_SCIENTIST, starts: float = -1, ends: float | None = None) -> Member:
    hours = timedelta(hours=1)
    return Member(
        project_id=P1, user_id=UUID(int=41), role=role, starts_at=NOW + starts * hours, ends_at=None if ends is None else NOW + ends * hours
    )


@pytest.mark.parametrize(
    ("member", "counts"),
    [
        (a_member(), True),
        (None, False),
        (a_member(None), False),
        (a_member(starts=1), False),
        (a_member(starts=0), True),
        (a_member(ends=1), True),
        (a_member(ends=0), False),
        (a_member(ends=-1), False),
    ],
)
def test_a_membership_counts_between_its_two_instants(member: Member | None, counts: bool) -> None:
    assert domain.submitting.member_counts(member, NOW) is counts


def test_work_needs_a_project_an_account_and_a_role_that_are_known_here() -> None:
    project, person = Project(project_id=P1, state="active"), Person(user_id=UUID(int=41), status=UserStatus.ACTIVE)
    domain.submitting.may_work(project, person, a_member(), NOW)
    for known in ((None, person, a_member()), (project, None, a_member()), (project, person, None)):
        with pytest.raises(domain.submitting.NotKnownHereYet):
            domain.submitting.may_work(known[0], known[1], known[2], NOW)
    with pytest.raises(domain.submitting.NotKnownHereYet):
        domain.submitting.may_work(project, Person(user_id=UUID(int=41), status=UserStatus.BLOCKED), a_member(), NOW)
    for state in ("archived", "closing", "deleted"):
        with pytest.raises(domain.submitting.ProjectNotActive):
            domain.submitting.may_work(Project(project_id=P1, state=state), person, a_member(), NOW)


def a_dataset(dataset_id: UUID, project_id: UUID, *origins: UUID, name: str = "wdbc", deleted: bool = False) -> Dataset:
    return Dataset(dataset_id=dataset_id, project_id=project_id, name=name, origins=list(origins or (dataset_id,)), deleted=deleted)


@pytest.mark.parametrize(
    ("dataset", "share", "readable"),
    [
        (a_dataset(D1, P1), None, True),
        (a_dataset(D1, P1, deleted=True), None, False),
        (a_dataset(D1, P2), None, False),
        (a_dataset(D1, P2), (P1, ShareState.ACCEPTED), True),
        (a_dataset(D1, P2), (P1, ShareState.OFFERED), False),
        (a_dataset(D1, P2), (P1, ShareState.WITHDRAWN), False),
        (a_dataset(D1, P2), (P2, ShareState.ACCEPTED), False),
        (a_dataset(D1, P2, deleted=True), (P1, ShareState.ACCEPTED), False),
        (a_dataset(D2, P1), None, False),
    ],
)
def test_inputs_are_own_or_shared_in(dataset: Dataset, share: tuple[UUID, ShareState] | None, readable: bool) -> None:
    shares = [Share(share_id=UUID(int=9), dataset_id=D1, target_project_id=share[0], state=share[1])] if share else []
    if readable:
        domain.submitting.inputs_are_readable(P1, [D1], [dataset], shares)
    else:
        with pytest.raises(domain.submitting.InputNotReadable):
            domain.submitting.inputs_are_readable(P1, [D1], [dataset], shares)


@given(st.lists(st.text(max_size=120), min_size=1, max_size=6))
def test_every_input_has_a_folder_of_its_own_with_a_plain_name(names: list[str]) -> None:
    ids = [UUID(int=100 + number) for number in range(len(names))]
    made = domain.submitting.folders([a_dataset(each, P1, name=name) for each, name in zip(ids, names, strict=True)], ids)
    folders = [folder for _, folder in made]
    assert [each for each, _ in made] == ids
    assert len({folder.casefold() for folder in folders}) == len(folders)
    for folder in folders:
        assert folder not in ("", ".", "..", "inputs.json")
        assert "/" not in folder
        assert folder.isprintable()
        assert len(folder.encode()) <= 255


# Reading


@pytest.mark.parametrize(
    ("role", "datasets", "freely"),
    [
        (Role.DATA_OWNER, [a_dataset(D1, P1)], True),
        (Role.DATA_SCIENTIST, [a_dataset(D1, P1)], False),
        (None, [a_dataset(D1, P1)], False),
        (Role.DATA_OWNER, [a_dataset(D1, P2)], False),
        (Role.DATA_OWNER, [a_dataset(D1, P1, D2), a_dataset(D2, P2)], False),
        (Role.DATA_OWNER, [a_dataset(D1, P1, D2)], False),
        (Role.DATA_OWNER, [a_dataset(D1, P1, D1, D2), a_dataset(D2, P1)], True),
        (Role.DATA_OWNER, [], False),
    ],
)
def test_only_owners_over_origins_of_their_own_project_read_freely(role: Role | None, datasets: list[Dataset], freely: bool) -> None:
    assert domain.reading.reads_freely(P1, role, [D1], datasets) is freely


def test_an_owner_reads_a_job_without_inputs_freely() -> None:
    assert domain.reading.reads_freely(P1, Role.DATA_OWNER, [], [])


def a_budget(used: int = 0) -> Budget:
    return Budget(project_id=P1, user_id=UUID(int=41), day="2026-11-23", used=used)


def a_log(text: bytes = b"") -> Log:
    return Log(run_id=UUID(int=51), base=0, until=len(text), kept=text[-domain.reading.LOG_KEPT :])


def nothing_shown() -> Shown:
    return Shown(run_id=UUID(int=51), user_id=UUID(int=41))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40_000)), max_size=30))
def test_no_sequence_of_writing_and_reading_shows_more_than_the_budget(steps: list[tuple[int, int]]) -> None:
    budget = a_budget()
    logs = [(a_log(), nothing_shown()) for _ in range(2)]
    seen = [bytearray(40 * 40_000) for _ in logs]
    for what, length in steps:
        if what < 2:
            domain.reading.append(logs[what][0], logs[what][0].until, "x" * length)
            continue
        for number, (log, shown) in enumerate(logs):
            try:
                reading = domain.reading.read_log(log, shown, budget)
            except domain.reading.LogBudgetUsedUp:
                continue
            assert log.until - len(log.kept) <= reading.start <= reading.end <= log.until
            seen[number][reading.start : reading.end] = b"x" * (reading.end - reading.start)
    assert sum(each.count(b"x") for each in seen) == budget.used <= domain.reading.BUDGET - domain.reading.KEPT_FOR_DETAILS


def test_reading_again_shows_the_same_for_nothing() -> None:
    budget, log, shown = a_budget(), a_log(b"abc"), nothing_shown()
    assert domain.reading.read_log(log, shown, budget) == domain.reading.Reading(0, 3, 3)
    assert domain.reading.read_log(log, shown, budget) == domain.reading.Reading(0, 3, 0)
    domain.reading.append(log, 3, "def")
    assert domain.reading.read_log(log, shown, budget) == domain.reading.Reading(0, 6, 3)
    assert budget.used == 6


def test_a_used_up_budget_still_shows_what_was_shown() -> None:
    log, shown = a_log(b"abc"), nothing_shown()
    domain.reading.read_log(log, shown, a_budget())
    domain.reading.append(log, 3, "def")
    assert domain.reading.read_log(log, shown, a_budget(domain.reading.BUDGET)) == domain.reading.Reading(0, 3, 0)
    with pytest.raises(domain.reading.LogBudgetUsedUp):
        domain.reading.read_log(log, nothing_shown(), a_budget(domain.reading.BUDGET))


def test_small_results_are_charged_when_they_are_new() -> None:
    run, shown, budget = a_run(RunState.RUNNING), nothing_shown(), a_budget()
    run.state = RunState.CANCELLED.value
    assert domain.reading.read_details(run, shown, budget)
    assert budget.used == 0
    run.metrics = {"loss": 0.5}
    for _ in range(2):
        assert domain.reading.read_details(run, shown, budget)
    first = budget.used
    assert first > 0
    run.metrics = {"loss": 0.25}
    assert domain.reading.read_details(run, shown, budget)
    assert budget.used > first
    assert not domain.reading.read_details(run, nothing_shown(), a_budget(domain.reading.BUDGET - 5))


def test_small_results_that_still_change_cost_nothing_and_are_shown_at_the_end() -> None:
    run, shown, budget = a_run(RunState.RUNNING), nothing_shown(), a_budget()
    for epoch in range(100):
        run.metrics = {"loss": 1 / (1 + epoch)}
        assert not domain.reading.read_details(run, shown, budget)
        assert domain.reading.read_details(run, nothing_shown(), None)
    assert budget.used == 0
    run.state = RunState.SUCCEEDED.value
    assert domain.reading.read_details(run, shown, budget)
    assert budget.used > 0


def test_a_character_cut_in_two_is_not_shown_in_pieces() -> None:
    log = a_log("aé€".encode())
    assert domain.reading.text_between(log, 0, 2) == "a"
    assert domain.reading.text_between(log, 2, 6) == "€"


@given(st.text(max_size=400), st.lists(st.tuples(st.integers(0, 400), st.integers(1, 100)), max_size=10))
def test_a_log_sent_in_overlapping_parts_is_kept_as_it_was(text: str, parts: list[tuple[int, int]]) -> None:
    text = text.encode(errors="replace").decode().replace("\0", "")
    log = a_log()
    sent = 0
    for back, length in parts:
        start = max(0, sent - back)
        sent = max(sent, min(len(text), start + length))
        domain.reading.append(log, len(text[:start].encode()), text[start : start + length])
    domain.reading.append(log, len(text[:sent].encode()), text[sent:])
    assert log.kept.decode() == text
    assert log.until == len(text.encode())


def test_a_new_lease_writes_a_new_log_and_offsets_go_on() -> None:
    log = a_log(b"first")
    domain.reading.begin_log(log)
    assert domain.reading.append(log, 0, "second") == 6
    assert (log.kept, log.base, log.until) == (b"second", 5, 11)


def test_text_that_no_database_can_hold_is_replaced() -> None:
    log = a_log()
    domain.reading.append(log, 0, "a\0b\ud800c")
    assert log.kept.decode() == "a\ufffdb?c"


# Agents


def an_agent() -> Agent:
    return Agent(agent_id=A1, name="node", token_sha256=domain.agents.token_hash("token"), created_at=NOW, version=1)


def test_a_token_serves_the_first_key_only() -> None:
    agent, hashed = an_agent(), domain.agents.token_hash("token")
    assert domain.agents.enrol(agent, hashed, b"k" * 32, "csr 1", NOW)
    assert not domain.agents.enrol(agent, hashed, b"k" * 32, "csr 1", NOW)
    assert domain.agents.enrol(agent, hashed, b"k" * 32, "csr 2", NOW)
    assert agent.version == 3
    with pytest.raises(domain.agents.EnrolmentTokenRefused):
        domain.agents.enrol(agent, hashed, b"l" * 32, "csr 3", NOW)


def test_a_token_that_nobody_used_ends_and_one_in_use_does_not() -> None:
    hashed = domain.agents.token_hash("token")
    unused, used = an_agent(), an_agent()
    unused.enrol_before = used.enrol_before = NOW + domain.agents.ENROLMENT
    assert domain.agents.enrol(used, hashed, b"k" * 32, "csr 1", NOW + domain.agents.ENROLMENT - timedelta(seconds=1))
    assert domain.agents.enrol(used, hashed, b"k" * 32, "csr 2", NOW + domain.agents.ENROLMENT)
    with pytest.raises(domain.agents.EnrolmentTokenRefused):
        domain.agents.enrol(unused, hashed, b"k" * 32, "csr 1", NOW + domain.agents.ENROLMENT)
    assert unused.key_sha256 is None


def test_an_agent_is_withdrawn_once_and_no_certificate_of_it_counts_again() -> None:
    agent = an_agent()
    request = csr()
    agent.csr, agent.chain, agent.certificate_id = request, "chain", "a9"
    assert domain.agents.withdraw(agent)
    assert agent.model_dump(include={"live", "csr", "chain", "certificate_id"}) == {
        "live": False,
        "csr": None,
        "chain": None,
        "certificate_id": None,
    }
    assert not domain.agents.withdraw(agent)
    assert agent.version == 2
    domain.agents.certify_agent(agent, agents_certificate("a9", request))
    assert agent.chain is None


def test_a_withdrawn_agent_and_an_unknown_token_are_refused_alike() -> None:
    agent, hashed = an_agent(), domain.agents.token_hash("token")
    agent.live = False
    for candidate, token in ((agent, hashed), (None, hashed), (an_agent(), hashlib.sha256(b"other").digest())):
        with pytest.raises(domain.agents.EnrolmentTokenRefused):
            domain.agents.enrol(candidate, token, b"k" * 32, "csr", NOW)


def agents_certificate(serial: str, request: str, *, live: bool = True) -> events.Certificate:
    about = {"agent_id": A1, "csr_sha256": read_csr(request).sha256}
    return certificate(UUID(int=0), 1, live=live, serial=serial).model_copy(update=about)


def test_a_revoked_certificate_is_forgotten() -> None:
    agent, request = an_agent(), csr()
    domain.agents.enrol(agent, domain.agents.token_hash("token"), b"k" * 32, request, NOW)
    domain.agents.certify_agent(agent, agents_certificate("c1", request))
    assert (agent.chain, agent.certificate_id) == ("CHAIN", "c1")
    domain.agents.certify_agent(agent, agents_certificate("c1", request, live=False))
    assert (agent.chain, agent.certificate_id) == (None, None)


# Facts of one certificate come in their order, those of two come in any.
@pytest.mark.parametrize("order", [order for order in permutations(["c1", "c1 ends", "c2"]) if order.index("c1") < order.index("c1 ends")])
def test_an_agent_that_asked_twice_gets_the_certificate_for_its_newest_request_in_whatever_order_the_facts_come(
    order: tuple[str, ...],
) -> None:
    agent, first, second = an_agent(), csr(), csr()
    for request in (first, second):
        domain.agents.enrol(agent, domain.agents.token_hash("token"), b"k" * 32, request, NOW)
    facts = {
        "c1": agents_certificate("c1", first),
        "c1 ends": agents_certificate("c1", first, live=False),
        "c2": agents_certificate("c2", second),
    }
    for name in order:
        domain.agents.certify_agent(agent, facts[name])
    assert (agent.chain, agent.certificate_id) == ("CHAIN", "c2")


def test_a_csr_is_known_by_its_key_and_must_be_signed_by_it() -> None:
    first, second = csr(), csr()
    assert domain.agents.key_of(first) == domain.agents.key_of(first) != domain.agents.key_of(second)
    lines = first.splitlines()
    forged = "\n".join([lines[0], *lines[1:-2], lines[-2][::-1], lines[-1]])
    for wrong in ("", "x", forged, "x" * 9000, first + second, csr(hashes.SHA224())):
        with pytest.raises(CsrRefused):
            domain.agents.key_of(wrong)
