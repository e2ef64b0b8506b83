"""The policy, decided for every action and every kind of caller, and its promises in words.

``python -m tests.contracts.test_policy`` writes ``matrix.json`` anew: look at each line that changes.
"""

import json
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.guard import refusal
from contracts import policy
from contracts.policy import POLICY, Action, Condition, Reason, Rule, Who, decide
from contracts.roles import NOBODY, Actor, ClusterRole, Principal, Role
from tests.world import administrator, agent, auditor, job, owner, person, scientist, stranger

MATRIX = Path(__file__).with_name("matrix.json")
PROJECT = UUID(int=1)


def by_certificate(actor: Actor) -> Actor:
    """The same person by a project certificate alone, as the gateway names them."""
    return actor.model_copy(update={"session_id": None, "certificate_id": "c1", "factor_fresh": False})


def by_key(actor: Actor, *scopes: Action) -> Actor:
    """The same person by an API key for ``scopes`` (all that can be given, when none is named), as the gateway names them."""
    open_to = frozenset(scope.value for scope in scopes) or policy.scopes()
    return actor.model_copy(
        update={"session_id": None, "key_id": UUID(int=4), "scopes": open_to, "factor_fresh": False, "cluster_roles": frozenset()}
    )


def an_hour_later(actor: Actor) -> Actor:
    """The same person, whose second factor was shown a while ago."""
    return actor.model_copy(update={"factor_fresh": False})


CALLERS = {
    "nobody": NOBODY,
    "stranger": stranger(PROJECT),
    "scientist": scientist(PROJECT),
    "owner": owner(PROJECT),
    "owner an hour later": an_hour_later(owner(PROJECT)),
    "administrator": administrator(),
    "administrator an hour later": an_hour_later(administrator()),
    "auditor": auditor(),
    "scientist by certificate": by_certificate(scientist(PROJECT)),
    "owner by certificate": by_certificate(owner(PROJECT)),
    "owner by key": by_key(owner(PROJECT)),
    "owner by a key that reads datasets": by_key(owner(PROJECT), Action.DATASET_LIST, Action.DATASET_READ),
    "agent": agent(),
    "job": job(UUID(int=2), project_id=PROJECT, user_id=UUID(int=3)),
    "service": Actor(principal=Principal.SERVICE, service="auth"),
}
IN_PROJECT = [action for action, rule in POLICY.items() if "{project_id}" in rule.path]
AGENT_DOORS = {Action.LEASE_TAKE, Action.LEASE_READ, Action.LEASE_RENEW, Action.RUN_LOG, Action.RUN_REPORT}
SERVICE_DOORS = {Action.SERVICE_CERTIFICATE_CREATE}
JOB_DOORS = {Action.RUN_INPUT_LIST, Action.RUN_INPUT_READ, Action.RUN_OUTPUT_STAGE}
OPEN_DOORS = {
    Action.INVITATION_ACCEPT,
    Action.INVITATION_CONFIRM,
    Action.SESSION_CREATE,
    Action.SESSION_REFRESH,
    Action.PASSKEY_CHALLENGE,
    Action.SIGN_IN_PAGE,
    Action.OIDC_LIST,
    Action.OIDC_START,
    Action.OIDC_CALLBACK,
    Action.OIDC_LOGOUT,
    Action.ENROLMENT_ACCEPT,
    Action.ENROLMENT_CONFIRM,
    Action.PASSWORD_RESET_ASK,
    Action.PASSWORD_RESET_ACCEPT,
    Action.REGISTRATION_ASK,
    Action.CRL_READ,
    Action.OCSP_ASK,
    Action.OCSP_ASK_BY_PATH,
    Action.ISSUER_READ,
    Action.AGENT_ENROL,
}
OF_AUTH = {action for action, rule in POLICY.items() if rule.service is policy.Service.AUTH}
SESSION_DOORS = (OF_AUTH - OPEN_DOORS) | {
    Action.PROJECT_CREATE,
    Action.PROJECT_CHANGE,
    Action.PROJECT_ARCHIVE,
    Action.PROJECT_RESTORE,
    Action.PROJECT_DELETE,
    Action.ERASURE_LIST,
    Action.ERASURE_READ,
    Action.MEMBER_ADD,
    Action.MEMBER_CHANGE,
    Action.MEMBER_REMOVE,
    Action.MEMBER_LEAVE,
    Action.PROJECT_INVITATION_CREATE,
    Action.PROJECT_INVITATION_WITHDRAW,
    Action.PROJECT_INVITATION_LIST_OWN,
    Action.PROJECT_INVITATION_ACCEPT,
    Action.PROJECT_INVITATION_DECLINE,
    Action.GROUP_ROLE_GIVE,
    Action.GROUP_ROLE_REMOVE,
    Action.BREAK_GLASS_OPEN,
    Action.OWNER_APPOINT,
    Action.BREAK_GLASS_LIST,
    Action.BREAK_GLASS_END,
    Action.BREAK_GLASS_REVIEW,
    Action.PROJECT_BREAK_GLASS_REVIEW,
    Action.CERTIFICATE_CREATE,
    Action.AGENT_CREATE,
    Action.AGENT_WITHDRAW,
    Action.AGENT_LIST,
    Action.AUDIT_LIST,
    Action.AUDIT_CHAINS,
}
STEP_UP_DOORS = {
    Action.TOTP_CREATE,
    Action.TOTP_CONFIRM,
    Action.TOTP_REMOVE,
    Action.PASSKEY_OPTIONS,
    Action.PASSKEY_ADD,
    Action.PASSKEY_REMOVE,
    Action.RECOVERY_CODES_CREATE,
    Action.PASSWORD_CHANGE,
    Action.KEY_CREATE,
    Action.PROJECT_DELETE,
    Action.GROUP_CREATE,
    Action.GROUP_CHANGE,
    Action.GROUP_REMOVE,
    Action.GROUP_MEMBER_ADD,
    Action.GROUP_MEMBER_REMOVE,
    Action.USER_PASSWORD_RESET,
    Action.USER_FACTOR_RESET,
    Action.SIGNING_KEY_ROTATE,
    Action.SIGNING_KEY_WITHDRAW,
    Action.BREAK_GLASS_OPEN,
    Action.OWNER_APPOINT,
}
actors = st.builds(
    Actor,
    principal=st.sampled_from(Principal),
    user_id=st.none() | st.uuids(),
    session_id=st.none() | st.uuids(),
    certificate_id=st.none() | st.text(max_size=4),
    cluster_roles=st.frozensets(st.sampled_from(ClusterRole)),
    project_id=st.none() | st.uuids(),
    role=st.none() | st.sampled_from(Role),
    projects=st.dictionaries(st.uuids(), st.sampled_from(Role), max_size=2),
    agent_id=st.none() | st.uuids(),
    run_id=st.none() | st.uuids(),
    fencing_token=st.none() | st.integers(),
    key_id=st.none() | st.uuids(),
    scopes=st.none() | st.frozensets(st.sampled_from([action.value for action in Action])),
    factor_fresh=st.booleans(),
    service=st.none() | st.sampled_from(policy.Service),
)


def said(actor: Actor, action: Action) -> str:
    """``allowed``, or the status and the reason of the refusal."""
    decision = decide(actor, action)
    return "allowed" if decision.allowed else f"{decision.status} {decision.reason}"


def may(actor: Actor) -> set[Action]:
    """Everything that the policy lets a caller do."""
    return {action for action in Action if decide(actor, action).allowed}


def matrix() -> dict[str, dict[str, str]]:
    """What is said to each kind of caller about each action."""
    return {action: {name: said(actor, action) for name, actor in CALLERS.items()} for action in Action}


def test_the_decisions_are_those_that_were_looked_at() -> None:
    assert matrix() == json.loads(MATRIX.read_text())


def test_every_action_has_one_row_and_every_row_a_door_of_its_own() -> None:
    assert set(POLICY) == set(Action)
    assert len({(rule.method, rule.path) for rule in POLICY.values()}) == len(POLICY)


@pytest.mark.parametrize("name", CALLERS)
def test_an_action_without_a_row_is_refused_to_everybody(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "POLICY", {action: rule for action, rule in POLICY.items() if action is not Action.PROJECT_READ})
    assert not decide(CALLERS[name], Action.PROJECT_READ).allowed


def test_an_administrator_or_auditor_is_a_stranger_in_every_project() -> None:
    both = person(project_id=PROJECT, cluster_roles=list(ClusterRole))
    for action in IN_PROJECT:
        assert said(both, action) == said(CALLERS["stranger"], action) == "404 not-a-member"
    assert may(both) - may(CALLERS["stranger"]) == {
        action for action, rule in POLICY.items() if rule.who & {Who.ADMINISTRATOR, Who.AUDITOR}
    }


def test_administrators_do_not_read_the_ledger_and_auditors_change_nothing_but_add_their_reviews() -> None:
    assert not {Action.AUDIT_LIST, Action.AUDIT_CHAINS} & may(administrator())
    reads = {Action.AUDIT_LIST, Action.AUDIT_CHAINS, Action.BREAK_GLASS_LIST}
    assert may(auditor()) - may(stranger(PROJECT)) == reads | {Action.BREAK_GLASS_REVIEW}


def test_an_administrator_opens_a_project_with_a_fresh_factor_and_cannot_review_that() -> None:
    assert Action.BREAK_GLASS_OPEN in may(administrator())
    assert said(an_hour_later(administrator()), Action.BREAK_GLASS_OPEN) == "401 factor-too-old"
    assert said(administrator(), Action.BREAK_GLASS_REVIEW) == "403 role-may-not"
    assert not any(Action.BREAK_GLASS_OPEN in may(each) for each in (owner(PROJECT), auditor(), scientist(PROJECT)))


def test_a_scientist_can_neither_upload_nor_download() -> None:
    for who in (scientist(PROJECT), by_certificate(scientist(PROJECT))):
        assert said(who, Action.FILE_UPLOAD) == said(who, Action.FILE_DOWNLOAD) == "403 role-may-not"
        moved = [action for action in may(who) if POLICY[action].carries_bytes or POLICY[action].max_body is None]
        assert moved == []


def test_what_a_scientist_may_do_an_owner_may_do() -> None:
    assert may(scientist(PROJECT)) < may(owner(PROJECT))


def test_agents_jobs_and_services_have_their_own_doors_alone() -> None:
    assert may(CALLERS["agent"]) == AGENT_DOORS | OPEN_DOORS
    assert may(CALLERS["job"]) == JOB_DOORS | OPEN_DOORS
    assert may(CALLERS["service"]) == SERVICE_DOORS | OPEN_DOORS
    for name, actor in CALLERS.items():
        assert not may(actor) & (AGENT_DOORS | JOB_DOORS | SERVICE_DOORS) or name in ("agent", "job", "service")


def test_a_door_of_services_is_for_nobody_else() -> None:
    rows = [rule for rule in POLICY.values() if Who.SERVICE in rule.who]
    assert rows
    assert all(rule.who == policy.SERVICE and "{" not in rule.path for rule in rows)


def test_an_unknown_caller_is_asked_to_sign_in_before_anything_is_said_about_a_project() -> None:
    assert may(NOBODY) == OPEN_DOORS
    for action in set(Action) - OPEN_DOORS:
        assert said(NOBODY, action) == "401 not-signed-in"


def test_a_stranger_is_told_of_no_project() -> None:
    assert all(POLICY[action].hides for action in IN_PROJECT)
    for action in IN_PROJECT:
        assert said(stranger(PROJECT), action) == said(by_certificate(stranger(PROJECT)), action) == "404 not-a-member"


def test_a_role_counts_in_the_project_of_the_path_alone() -> None:
    elsewhere = person(project_id=PROJECT, projects={UUID(int=9): Role.DATA_OWNER})
    assert not may(elsewhere) & set(IN_PROJECT)


def test_a_certificate_alone_opens_no_door_that_needs_a_session() -> None:
    whole = person(project_id=PROJECT, role=Role.DATA_OWNER, cluster_roles=list(ClusterRole))
    assert may(whole) - may(by_certificate(whole)) == SESSION_DOORS
    for action in SESSION_DOORS:
        assert said(by_certificate(whole), action) == "403 session-needed"


def test_a_certificate_alone_still_does_the_work_of_its_project() -> None:
    work = {Action.PROJECT_LIST, Action.SEARCH, Action.CERTIFICATE_REVOKE, Action.JOB_SUBMIT, Action.JOB_LOG, Action.DATASET_READ}
    assert work <= may(by_certificate(scientist(PROJECT)))
    assert work | {Action.FILE_UPLOAD, Action.FILE_DOWNLOAD} <= may(by_certificate(owner(PROJECT)))


def test_a_token_beside_the_certificate_is_a_session() -> None:
    both = owner(PROJECT).model_copy(update={"certificate_id": "c1"})
    assert may(both) == may(owner(PROJECT))


def test_a_factor_that_is_old_closes_the_doors_that_change_factors_and_keys_and_no_other() -> None:
    whole = person(project_id=PROJECT, role=Role.DATA_OWNER, cluster_roles=list(ClusterRole))
    assert may(whole) - may(an_hour_later(whole)) == STEP_UP_DOORS
    for action in STEP_UP_DOORS:
        assert said(an_hour_later(whole), action) == "401 factor-too-old"


def test_a_door_that_asks_for_a_fresh_factor_asks_for_a_session() -> None:
    assert all(rule.session for rule in POLICY.values() if rule.step_up)


def test_a_key_opens_what_it_was_made_for_and_what_is_open_to_everybody() -> None:
    key = by_key(owner(PROJECT), Action.DATASET_READ, Action.JOB_SUBMIT)
    assert may(key) == {Action.DATASET_READ, Action.JOB_SUBMIT} | OPEN_DOORS
    assert said(key, Action.FILE_DOWNLOAD) == "403 scope-missing"


def test_a_key_is_never_more_than_its_person() -> None:
    for whole in (owner(PROJECT), scientist(PROJECT), stranger(PROJECT), administrator(), auditor()):
        assert may(by_key(whole)) <= may(whole)
    assert said(by_key(scientist(PROJECT)), Action.FILE_DOWNLOAD) == "403 role-may-not"


def test_no_key_can_be_given_a_door_that_needs_a_session() -> None:
    assert not policy.scopes() & {action.value for action in SESSION_DOORS | OPEN_DOORS | AGENT_DOORS | JOB_DOORS | SERVICE_DOORS}
    whole = person(project_id=PROJECT, role=Role.DATA_OWNER)
    for action in SESSION_DOORS & may(whole):
        assert said(by_key(whole, action), action) == "403 session-needed"


def test_cookies_reach_the_doors_of_signing_in_and_out_alone() -> None:
    assert {action for action, rule in POLICY.items() if rule.cookies} == {
        Action.SESSION_CREATE,
        Action.SESSION_REFRESH,
        Action.SESSION_END,
        Action.SESSION_END_ALL,
        Action.OIDC_START,
        Action.OIDC_CALLBACK,
        Action.ENROLMENT_ACCEPT,
    }


def test_only_what_is_the_same_for_everybody_may_be_kept_by_others() -> None:
    kept = {action: rule for action, rule in POLICY.items() if rule.cacheable}
    assert set(kept) == {Action.CRL_READ, Action.ISSUER_READ}
    assert all(rule.who == {Who.NOBODY} and not rule.cookies and not rule.carries_bytes for rule in kept.values())


def test_every_door_of_a_cluster_role_needs_a_session() -> None:
    assert all(rule.session for rule in POLICY.values() if rule.who & {Who.ADMINISTRATOR, Who.AUDITOR})


def test_bytes_of_a_dataset_leave_only_where_their_origin_is_checked() -> None:
    assert {condition for rule in POLICY.values() if rule.carries_bytes for condition in rule.when} == {
        Condition.ORIGINS_ARE_OWN,
        Condition.RUN_IS_LIVE,
    }


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.ALLOWED])
def test_each_refusal_reaches_the_caller_under_its_name(reason: Reason) -> None:
    status = {Reason.NOT_SIGNED_IN: 401, Reason.NOT_A_MEMBER: 404, Reason.FACTOR_TOO_OLD: 401}.get(reason, 403)
    problem = refusal(policy.Decision(allowed=False, reason=reason, status=status))
    assert (problem.status, problem.slug) == (status, "not-found" if reason is Reason.NOT_A_MEMBER else reason)


def let_in(actor: Actor, rule: Rule) -> bool:
    """The policy's reading of a row, written a second time."""
    known = actor.principal is Principal.PERSON
    columns = {
        Who.NOBODY: True,
        Who.SIGNED_IN: known,
        Who.DATA_OWNER: known and actor.role is Role.DATA_OWNER,
        Who.DATA_SCIENTIST: known and actor.role is Role.DATA_SCIENTIST,
        Who.ADMINISTRATOR: known and ClusterRole.ADMINISTRATOR in actor.cluster_roles,
        Who.AUDITOR: known and ClusterRole.AUDITOR in actor.cluster_roles,
        Who.AGENT: actor.principal is Principal.AGENT,
        Who.JOB: actor.principal is Principal.JOB,
        Who.SERVICE: actor.principal is Principal.SERVICE,
    }
    is_open = Who.NOBODY in rule.who
    in_scope = actor.scopes is None or is_open or any(POLICY[Action(scope)] is rule for scope in actor.scopes)
    there = not rule.session or actor.session_id is not None
    return any(columns[who] for who in rule.who) and there and in_scope and (not rule.step_up or actor.factor_fresh)


@given(actor=actors, action=st.sampled_from(Action))
def test_every_decision_is_made_and_only_a_row_that_lets_the_caller_in_allows(actor: Actor, action: Action) -> None:
    decision = decide(actor, action)
    assert decision.allowed == let_in(actor, POLICY[action])
    assert (decision.status == 0) == (decision.reason is Reason.ALLOWED) == decision.allowed
    assert decision.allowed or decision.status in (401, 403, 404)


@given(actor=actors, action=st.sampled_from(Action))
def test_without_rows_everything_is_refused(actor: Actor, action: Action) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "POLICY", {})
        assert not decide(actor, action).allowed


if __name__ == "__main__":
    MATRIX.write_text(json.dumps(matrix(), indent=1) + "\n")
