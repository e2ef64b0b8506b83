"""The policy: one row for each thing a caller can do. What has no row is refused.

``decide`` is pure and total and denies by default. The gateway and the guard in every service call it with the same
table, so a row is enforced twice. ``docs/policy.md`` is generated from this file.
"""

from dataclasses import dataclass
from enum import StrEnum

from contracts.roles import Actor, ClusterRole, Principal, Role

API = "/api/v1"
KIB = 1024
DEFAULT_BODY = 256 * KIB


class Service(StrEnum):
    """The services behind the gateway."""

    AUTH = "auth"
    PROJECTS = "projects"
    CA = "ca"
    DATASETS = "datasets"
    JOBS = "jobs"
    SEARCH = "search"
    AUDIT = "audit"


class Who(StrEnum):
    """The columns of the policy."""

    NOBODY = "nobody"
    SIGNED_IN = "signed_in"
    DATA_SCIENTIST = "data_scientist"
    DATA_OWNER = "data_owner"
    ADMINISTRATOR = "administrator"
    AUDITOR = "auditor"
    AGENT = "agent"
    JOB = "job"


class Condition(StrEnum):
    """A rule on stored state, checked in the domain of the service that owns the state."""

    INVITATION_IS_OPEN = "the invitation is known, unused and not older than its time"
    SECOND_FACTOR_IS_RIGHT = "password and one-time code are right and the code was not used before"
    SESSION_IS_OWN = "the session belongs to the caller"
    LAST_ADMINISTRATOR_STAYS = "at least one active administrator remains"
    LAST_OWNER_STAYS = "at least one Data Owner remains in the project"
    CERTIFICATE_IS_OWN = "the certificate belongs to the caller, or the caller is a Data Owner of its project"
    DATASET_IS_READABLE = "the dataset belongs to the project or an accepted share brings it there"
    DATASET_IS_OWN = "the dataset belongs to the project"
    ORIGINS_ARE_OWN = "every dataset that the bytes came from belongs to the project"
    SHARE_IS_FOR_PROJECT = "the share is offered to the project and still open"
    INPUTS_ARE_READABLE = "every input belongs to the project or is shared into it"
    LOG_BUDGET_LEFT = "the person's budget of small outputs for the day is not used up"
    RUN_IS_LIVE = "the run is leased with the fencing token of the certificate and the dataset is one of its inputs"
    LEASE_IS_HELD = "the agent holds the run's lease with this fencing token"
    ENROLMENT_TOKEN_IS_OPEN = "the enrolment token is known and was not used with another key"


class Action(StrEnum):
    """Everything a caller can do."""

    INVITATION_ACCEPT = "invitation.accept"
    INVITATION_CONFIRM = "invitation.confirm"
    SESSION_CREATE = "session.create"
    SESSION_LIST = "session.list"
    SESSION_END = "session.end"
    USER_CREATE = "user.create"
    USER_LIST = "user.list"
    USER_READ_SELF = "user.read_self"
    USER_CHANGE = "user.change"

    PROJECT_CREATE = "project.create"
    PROJECT_LIST = "project.list"
    PROJECT_READ = "project.read"
    PROJECT_CHANGE = "project.change"
    MEMBER_ADD = "member.add"
    MEMBER_LIST = "member.list"
    MEMBER_CHANGE = "member.change"
    MEMBER_REMOVE = "member.remove"

    CERTIFICATE_CREATE = "certificate.create"
    CERTIFICATE_LIST = "certificate.list"
    CERTIFICATE_REVOKE = "certificate.revoke"

    DATASET_CREATE = "dataset.create"
    DATASET_LIST = "dataset.list"
    DATASET_READ = "dataset.read"
    DATASET_CHANGE = "dataset.change"
    FILE_UPLOAD = "file.upload"
    FILE_LIST = "file.list"
    FILE_DOWNLOAD = "file.download"
    SHARE_OFFER = "share.offer"
    SHARE_LIST = "share.list"
    SHARE_WITHDRAW = "share.withdraw"
    SHARE_LIST_INCOMING = "share.list_incoming"
    SHARE_ACCEPT = "share.accept"
    RUN_INPUT_LIST = "run.input_list"
    RUN_INPUT_READ = "run.input_read"
    RUN_OUTPUT_STAGE = "run.output_stage"

    JOB_SUBMIT = "job.submit"
    JOB_LIST = "job.list"
    JOB_READ = "job.read"
    JOB_CANCEL = "job.cancel"
    JOB_LOG = "job.log"
    AGENT_CREATE = "agent.create"
    AGENT_LIST = "agent.list"
    AGENT_WITHDRAW = "agent.withdraw"
    AGENT_ENROL = "agent.enrol"
    LEASE_TAKE = "lease.take"
    LEASE_READ = "lease.read"
    LEASE_RENEW = "lease.renew"
    RUN_LOG = "run.log"
    RUN_REPORT = "run.report"

    SEARCH = "search"

    AUDIT_LIST = "audit.list"
    AUDIT_CHAINS = "audit.chains"


@dataclass(frozen=True)
class Rule:
    """One row. ``path`` is below ``API``.

    ``hides``: someone who is no member gets 404 instead of 403. ``carries_bytes``: the answer holds dataset bytes, so
    it is recorded when opened and when closed. ``max_body``: bytes; None means a stream without a limit. ``session``: the
    person must have signed in with both factors; a project certificate alone, which may lie on a machine, is refused.
    """

    service: Service
    method: str
    path: str
    who: frozenset[Who]
    when: Condition | None = None
    hides: bool = False
    carries_bytes: bool = False
    max_body: int | None = DEFAULT_BODY
    session: bool = False


def who(*columns: Who) -> frozenset[Who]:
    """The callers that a row lets in."""
    return frozenset(columns)


OWNER = who(Who.DATA_OWNER)
MEMBER = who(Who.DATA_OWNER, Who.DATA_SCIENTIST)
SIGNED_IN = who(Who.SIGNED_IN)
ADMINISTRATOR = who(Who.ADMINISTRATOR)
AUDITOR = who(Who.AUDITOR)
AGENT = who(Who.AGENT)
JOB = who(Who.JOB)
EVERYBODY = who(Who.NOBODY)

_PROJECT = "/projects/{project_id}"
_DATASET = _PROJECT + "/datasets/{dataset_id}"
_JOB = _PROJECT + "/jobs/{job_id}"
_RUN = "/runs/{run_id}"

POLICY: dict[Action, Rule] = {
    Action.INVITATION_ACCEPT: Rule(Service.AUTH, "POST", "/invitations/acceptance", EVERYBODY, when=Condition.INVITATION_IS_OPEN),
    Action.INVITATION_CONFIRM: Rule(Service.AUTH, "POST", "/invitations/confirmation", EVERYBODY, when=Condition.INVITATION_IS_OPEN),
    Action.SESSION_CREATE: Rule(Service.AUTH, "POST", "/sessions", EVERYBODY, when=Condition.SECOND_FACTOR_IS_RIGHT),
    Action.SESSION_LIST: Rule(Service.AUTH, "GET", "/sessions", SIGNED_IN, session=True),
    Action.SESSION_END: Rule(Service.AUTH, "DELETE", "/sessions/{session_id}", SIGNED_IN, when=Condition.SESSION_IS_OWN, session=True),
    Action.USER_CREATE: Rule(Service.AUTH, "POST", "/users", ADMINISTRATOR, session=True),
    Action.USER_LIST: Rule(Service.AUTH, "GET", "/users", ADMINISTRATOR, session=True),
    Action.USER_READ_SELF: Rule(Service.AUTH, "GET", "/users/me", SIGNED_IN, session=True),
    Action.USER_CHANGE: Rule(
        Service.AUTH, "PATCH", "/users/{user_id}", ADMINISTRATOR, when=Condition.LAST_ADMINISTRATOR_STAYS, session=True
    ),
    Action.PROJECT_CREATE: Rule(Service.PROJECTS, "POST", "/projects", SIGNED_IN, session=True),
    Action.PROJECT_LIST: Rule(Service.PROJECTS, "GET", "/projects", SIGNED_IN),
    Action.PROJECT_READ: Rule(Service.PROJECTS, "GET", _PROJECT, MEMBER, hides=True),
    Action.PROJECT_CHANGE: Rule(Service.PROJECTS, "PATCH", _PROJECT, OWNER, hides=True),
    Action.MEMBER_ADD: Rule(Service.PROJECTS, "POST", _PROJECT + "/members", OWNER, hides=True, session=True),
    Action.MEMBER_LIST: Rule(Service.PROJECTS, "GET", _PROJECT + "/members", MEMBER, hides=True),
    Action.MEMBER_CHANGE: Rule(
        Service.PROJECTS, "PATCH", _PROJECT + "/members/{user_id}", OWNER, when=Condition.LAST_OWNER_STAYS, hides=True, session=True
    ),
    Action.MEMBER_REMOVE: Rule(
        Service.PROJECTS, "DELETE", _PROJECT + "/members/{user_id}", OWNER, when=Condition.LAST_OWNER_STAYS, hides=True
    ),
    Action.CERTIFICATE_CREATE: Rule(Service.CA, "POST", _PROJECT + "/certificates", MEMBER, hides=True, session=True),
    Action.CERTIFICATE_LIST: Rule(Service.CA, "GET", _PROJECT + "/certificates", MEMBER, hides=True),
    Action.CERTIFICATE_REVOKE: Rule(
        Service.CA, "DELETE", _PROJECT + "/certificates/{certificate_id}", MEMBER, when=Condition.CERTIFICATE_IS_OWN, hides=True
    ),
    Action.DATASET_CREATE: Rule(Service.DATASETS, "POST", _PROJECT + "/datasets", OWNER, hides=True),
    Action.DATASET_LIST: Rule(Service.DATASETS, "GET", _PROJECT + "/datasets", MEMBER, hides=True),
    Action.DATASET_READ: Rule(Service.DATASETS, "GET", _DATASET, MEMBER, when=Condition.DATASET_IS_READABLE, hides=True),
    Action.DATASET_CHANGE: Rule(Service.DATASETS, "PATCH", _DATASET, OWNER, when=Condition.DATASET_IS_OWN, hides=True),
    Action.FILE_UPLOAD: Rule(
        Service.DATASETS, "PUT", _DATASET + "/files/{path:path}", OWNER, when=Condition.DATASET_IS_OWN, hides=True, max_body=None
    ),
    Action.FILE_LIST: Rule(Service.DATASETS, "GET", _DATASET + "/files", MEMBER, when=Condition.DATASET_IS_READABLE, hides=True),
    Action.FILE_DOWNLOAD: Rule(
        Service.DATASETS,
        "GET",
        _DATASET + "/files/{path:path}",
        OWNER,
        when=Condition.ORIGINS_ARE_OWN,
        hides=True,
        carries_bytes=True,
    ),
    Action.SHARE_OFFER: Rule(Service.DATASETS, "POST", _DATASET + "/shares", OWNER, when=Condition.DATASET_IS_OWN, hides=True),
    Action.SHARE_LIST: Rule(Service.DATASETS, "GET", _DATASET + "/shares", MEMBER, when=Condition.DATASET_IS_OWN, hides=True),
    Action.SHARE_WITHDRAW: Rule(
        Service.DATASETS, "DELETE", _DATASET + "/shares/{share_id}", OWNER, when=Condition.DATASET_IS_OWN, hides=True
    ),
    Action.SHARE_LIST_INCOMING: Rule(Service.DATASETS, "GET", _PROJECT + "/incoming-shares", MEMBER, hides=True),
    Action.SHARE_ACCEPT: Rule(
        Service.DATASETS,
        "POST",
        _PROJECT + "/incoming-shares/{share_id}/acceptance",
        OWNER,
        when=Condition.SHARE_IS_FOR_PROJECT,
        hides=True,
    ),
    Action.RUN_INPUT_LIST: Rule(Service.DATASETS, "GET", _RUN + "/inputs/{dataset_id}/files", JOB, when=Condition.RUN_IS_LIVE),
    Action.RUN_INPUT_READ: Rule(
        Service.DATASETS,
        "GET",
        _RUN + "/inputs/{dataset_id}/files/{path:path}",
        JOB,
        when=Condition.RUN_IS_LIVE,
        carries_bytes=True,
    ),
    Action.RUN_OUTPUT_STAGE: Rule(Service.DATASETS, "PUT", _RUN + "/outputs/{path:path}", JOB, when=Condition.RUN_IS_LIVE, max_body=None),
    Action.JOB_SUBMIT: Rule(Service.JOBS, "POST", _PROJECT + "/jobs", MEMBER, when=Condition.INPUTS_ARE_READABLE, hides=True),
    Action.JOB_LIST: Rule(Service.JOBS, "GET", _PROJECT + "/jobs", MEMBER, hides=True),
    Action.JOB_READ: Rule(Service.JOBS, "GET", _JOB, MEMBER, when=Condition.LOG_BUDGET_LEFT, hides=True),
    Action.JOB_CANCEL: Rule(Service.JOBS, "POST", _JOB + "/cancellation", MEMBER, hides=True),
    Action.JOB_LOG: Rule(Service.JOBS, "GET", _JOB + "/log", MEMBER, when=Condition.LOG_BUDGET_LEFT, hides=True),
    Action.AGENT_CREATE: Rule(Service.JOBS, "POST", "/agents", ADMINISTRATOR, session=True),
    Action.AGENT_LIST: Rule(Service.JOBS, "GET", "/agents", ADMINISTRATOR, session=True),
    Action.AGENT_WITHDRAW: Rule(Service.JOBS, "DELETE", "/agents/{agent_id}", ADMINISTRATOR, session=True),
    Action.AGENT_ENROL: Rule(Service.JOBS, "POST", "/agents/enrolment", EVERYBODY, when=Condition.ENROLMENT_TOKEN_IS_OPEN),
    Action.LEASE_TAKE: Rule(Service.JOBS, "POST", "/leases", AGENT),
    Action.LEASE_READ: Rule(Service.JOBS, "GET", "/leases/{run_id}", AGENT, when=Condition.LEASE_IS_HELD),
    Action.LEASE_RENEW: Rule(Service.JOBS, "POST", "/leases/{run_id}/renewal", AGENT, when=Condition.LEASE_IS_HELD),
    Action.RUN_LOG: Rule(Service.JOBS, "POST", "/leases/{run_id}/log", AGENT, when=Condition.LEASE_IS_HELD),
    Action.RUN_REPORT: Rule(Service.JOBS, "POST", "/leases/{run_id}/report", AGENT, when=Condition.LEASE_IS_HELD),
    Action.SEARCH: Rule(Service.SEARCH, "GET", "/search", SIGNED_IN),
    Action.AUDIT_LIST: Rule(Service.AUDIT, "GET", "/audit/records", AUDITOR, session=True),
    Action.AUDIT_CHAINS: Rule(Service.AUDIT, "GET", "/audit/chains", AUDITOR, session=True),
}


class Reason(StrEnum):
    """Why a decision fell as it did; refusals carry it to the caller and to the ledger."""

    ALLOWED = "allowed"
    NOT_SIGNED_IN = "not-signed-in"
    NOT_A_MEMBER = "not-a-member"
    ROLE_MAY_NOT = "role-may-not"
    WRONG_PRINCIPAL = "wrong-principal"
    SESSION_NEEDED = "session-needed"


@dataclass(frozen=True)
class Decision:
    """The answer of the policy. ``status`` is the HTTP status of a refusal (0 when allowed)."""

    allowed: bool
    reason: Reason
    status: int = 0


ALLOWED = Decision(allowed=True, reason=Reason.ALLOWED)


def columns_of(actor: Actor) -> frozenset[Who]:
    """The columns of the policy that an actor stands in; a role counts only in the project of the request."""
    columns = {Who.NOBODY}
    if actor.principal is Principal.PERSON:
        columns.add(Who.SIGNED_IN)
        columns.update(_CLUSTER_COLUMNS[role] for role in actor.cluster_roles)
        if actor.role is not None:
            columns.add(_ROLE_COLUMNS[actor.role])
    elif actor.principal is Principal.AGENT:
        columns.add(Who.AGENT)
    elif actor.principal is Principal.JOB:
        columns.add(Who.JOB)
    return frozenset(columns)


def decide(actor: Actor, action: Action) -> Decision:
    """Whether ``actor`` may do ``action``: pure, total, deny by default. Conditions are checked by the owner later."""
    rule = POLICY.get(action)
    if rule is None:
        return Decision(allowed=False, reason=Reason.ROLE_MAY_NOT, status=404)
    if columns_of(actor) & rule.who:
        if rule.session and actor.session_id is None:
            return Decision(allowed=False, reason=Reason.SESSION_NEEDED, status=403)
        return ALLOWED
    return _refusal(actor, rule)


def _refusal(actor: Actor, rule: Rule) -> Decision:
    """The answer for someone who stands in none of the row's columns."""
    if actor.principal is Principal.NOBODY:
        return Decision(allowed=False, reason=Reason.NOT_SIGNED_IN, status=401)
    if rule.hides and actor.role is None:
        return Decision(allowed=False, reason=Reason.NOT_A_MEMBER, status=404)
    if actor.principal is not Principal.PERSON:
        return Decision(allowed=False, reason=Reason.WRONG_PRINCIPAL, status=403)
    return Decision(allowed=False, reason=Reason.ROLE_MAY_NOT, status=403)


_CLUSTER_COLUMNS = {ClusterRole.ADMINISTRATOR: Who.ADMINISTRATOR, ClusterRole.AUDITOR: Who.AUDITOR}
_ROLE_COLUMNS = {Role.DATA_OWNER: Who.DATA_OWNER, Role.DATA_SCIENTIST: Who.DATA_SCIENTIST}
