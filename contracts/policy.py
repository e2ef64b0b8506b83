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
STEP_UP_S = 300
LONGEST_RUN_S = 23 * 3600
RUN_CERTIFICATE_S = LONGEST_RUN_S + 3600
"""The one certificate of a run outlasts its program by an hour: inputs are brought before it, outputs after it (decision 25)."""


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
    SERVICE = "service"


class Condition(StrEnum):
    """A rule on stored state, checked in the domain of the service that owns the state."""

    INVITATION_IS_OPEN = "the invitation is known, unused and not older than its time"
    SECOND_FACTOR_IS_RIGHT = "what is shown as second factor is right and was not used before; at a sign-in the password is right, too; who has none shows the password"
    REFRESH_TOKEN_IS_CURRENT = "the refresh token is the newest of its session, or was the newest one 10 seconds ago"
    CLIENT_CODE_IS_OPEN = "the code was made by a browser that signed in, for this verifier, less than a minute ago"
    SIGN_IN_IS_RECENT = "the caller signed in, or showed their second factor, less than 5 minutes ago"
    SESSION_IS_OWN = "the session belongs to the caller"
    LINK_IS_OPEN = "the one-time link is known, unused and not older than its time"
    FIRST_FACTOR_IS_SHOWN = "who sets up a second factor has shown the first one: before the link was made, or beside it"
    PASSWORD_IS_RIGHT = "the password that the caller has now is right"
    A_FACTOR_STAYS = "what remains satisfies the second-factor policy of the caller's groups"
    KEY_IS_OWN = "the API key belongs to the caller"
    SCOPES_ARE_OPEN = "the scopes are actions that a key can be given, and the project is one of the caller's"
    ROLES_NEED_FRESH_FACTOR = "who gives a cluster role, or invites somebody anew, has shown their second factor less than 5 minutes ago"
    REGISTRATION_IS_OPEN = "self-registration is switched on, and the request is not decided yet"
    SIGNING_KEY_IS_SPARE = "another key signs by now"
    PROVIDER_IS_KNOWN = "the identity provider is configured, and the answer belongs to the request that this browser began"
    LAST_ADMINISTRATOR_STAYS = "at least one active administrator remains"
    CREATING_IS_OPEN = "the installation lets the caller create projects: everybody, or administrators and the people of named groups"
    NAME_IS_REPEATED = "whoever deletes a project repeats its name"
    ERASURE_IS_VISIBLE = (
        "who asks for a certificate of erasure asked for the deletion, owned the project then, or is an administrator or auditor"
    )
    LAST_OWNER_STAYS = "at least one Data Owner remains in the project"
    OWNERS_NEED_FRESH_FACTOR = (
        "who makes somebody a Data Owner, or makes more or less of one, has shown their second factor less than 5 minutes ago"
    )
    NOBODY_RAISES_THEMSELVES = (
        "nobody gives themselves more than they hold: no higher role, no later end, no second way in by a group or by leaving"
    )
    OWNERS_GIVE_WITHIN_THEIR_TIME = (
        "a Data Owner whose own role ends makes others Data Owners until then, and no longer; who is one by a group makes none"
    )
    PROJECT_INVITATION_IS_OPEN = "the invitation is the caller's own, is not answered yet, and its time lasts"
    INVITER_IS_STILL_OWNER = "whoever made the invitation could make it now: a Data Owner of the project whose account is not blocked"
    PROJECT_HAS_NO_OWNER = "nobody with an active account is a Data Owner of the project by themselves and without an end"
    REVIEWER_IS_ANOTHER = "the reviewer is somebody else than whoever opened the project, or was made its Data Owner"
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
    SESSION_REFRESH = "session.refresh"
    SESSION_LIST = "session.list"
    SESSION_END = "session.end"
    SESSION_END_ALL = "session.end_all"
    SESSION_STEP_UP = "session.step_up"
    PASSKEY_CHALLENGE = "passkey.challenge"
    SIGN_IN_PAGE = "sign_in.page"
    CLIENT_CODE_CREATE = "client_code.create"
    OIDC_LIST = "oidc.list"
    OIDC_START = "oidc.start"
    OIDC_CALLBACK = "oidc.callback"
    OIDC_LOGOUT = "oidc.logout"
    FACTOR_LIST = "factor.list"
    TOTP_CREATE = "totp.create"
    TOTP_CONFIRM = "totp.confirm"
    TOTP_REMOVE = "totp.remove"
    PASSKEY_OPTIONS = "passkey.options"
    PASSKEY_ADD = "passkey.add"
    PASSKEY_REMOVE = "passkey.remove"
    RECOVERY_CODES_CREATE = "recovery_codes.create"
    ENROLMENT_ACCEPT = "enrolment.accept"
    ENROLMENT_CONFIRM = "enrolment.confirm"
    PASSWORD_CHANGE = "password.change"
    PASSWORD_RESET_ASK = "password_reset.ask"
    PASSWORD_RESET_ACCEPT = "password_reset.accept"
    KEY_CREATE = "key.create"
    KEY_LIST = "key.list"
    KEY_END = "key.end"
    REGISTRATION_ASK = "registration.ask"
    REGISTRATION_LIST = "registration.list"
    REGISTRATION_APPROVE = "registration.approve"
    REGISTRATION_DECLINE = "registration.decline"
    USER_CREATE = "user.create"
    USER_LIST = "user.list"
    USER_READ = "user.read"
    USER_READ_SELF = "user.read_self"
    USER_CHANGE = "user.change"
    USER_SESSION_LIST = "user.session_list"
    USER_SESSION_END_ALL = "user.session_end_all"
    USER_KEY_LIST = "user.key_list"
    USER_KEY_END_ALL = "user.key_end_all"
    USER_PASSWORD_RESET = "user.password_reset"
    USER_FACTOR_RESET = "user.factor_reset"
    GROUP_CREATE = "group.create"
    GROUP_LIST = "group.list"
    GROUP_CHANGE = "group.change"
    GROUP_REMOVE = "group.remove"
    GROUP_MEMBER_LIST = "group.member_list"
    GROUP_MEMBER_ADD = "group.member_add"
    GROUP_MEMBER_REMOVE = "group.member_remove"
    SIGNING_KEY_LIST = "signing_key.list"
    SIGNING_KEY_ROTATE = "signing_key.rotate"
    SIGNING_KEY_WITHDRAW = "signing_key.withdraw"

    PROJECT_CREATE = "project.create"
    PROJECT_LIST = "project.list"
    PROJECT_READ = "project.read"
    PROJECT_CHANGE = "project.change"
    PROJECT_ARCHIVE = "project.archive"
    PROJECT_RESTORE = "project.restore"
    PROJECT_DELETE = "project.delete"
    ERASURE_LIST = "erasure.list"
    ERASURE_READ = "erasure.read"
    MEMBER_ADD = "member.add"
    MEMBER_LIST = "member.list"
    MEMBER_CHANGE = "member.change"
    MEMBER_REMOVE = "member.remove"
    MEMBER_LEAVE = "member.leave"
    PROJECT_INVITATION_CREATE = "project_invitation.create"
    PROJECT_INVITATION_LIST = "project_invitation.list"
    PROJECT_INVITATION_WITHDRAW = "project_invitation.withdraw"
    PROJECT_INVITATION_LIST_OWN = "project_invitation.list_own"
    PROJECT_INVITATION_ACCEPT = "project_invitation.accept"
    PROJECT_INVITATION_DECLINE = "project_invitation.decline"
    GROUP_ROLE_GIVE = "group_role.give"
    GROUP_ROLE_LIST = "group_role.list"
    GROUP_ROLE_REMOVE = "group_role.remove"
    ACTIVITY_LIST = "activity.list"
    BREAK_GLASS_OPEN = "break_glass.open"
    BREAK_GLASS_LIST = "break_glass.list"
    BREAK_GLASS_END = "break_glass.end"
    BREAK_GLASS_REVIEW = "break_glass.review"
    OWNER_APPOINT = "owner.appoint"
    PROJECT_BREAK_GLASS_LIST = "project_break_glass.list"
    PROJECT_BREAK_GLASS_REVIEW = "project_break_glass.review"

    CERTIFICATE_CREATE = "certificate.create"
    CERTIFICATE_LIST = "certificate.list"
    CERTIFICATE_REVOKE = "certificate.revoke"
    CRL_READ = "crl.read"
    OCSP_ASK = "ocsp.ask"
    OCSP_ASK_BY_PATH = "ocsp.ask_by_path"
    ISSUER_READ = "issuer.read"
    SERVICE_CERTIFICATE_CREATE = "service_certificate.create"

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
    person must have signed in; a project certificate or an API key, which may lie on a machine, is refused. ``step_up``: and
    must have shown their second factor less than ``STEP_UP_S`` ago. ``cookies``: the gateway lets this door's cookies through.
    ``secret``: the body holds a password or the like, so nothing that could be guessed against is kept of it for a repeated request.
    ``cacheable``: the answer is the same for everybody, and the service says itself for how long it may be kept.
    """

    service: Service
    method: str
    path: str
    who: frozenset[Who]
    when: tuple[Condition, ...] = ()
    hides: bool = False
    carries_bytes: bool = False
    max_body: int | None = DEFAULT_BODY
    session: bool = False
    step_up: bool = False
    cookies: bool = False
    secret: bool = False
    cacheable: bool = False


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
SERVICE = who(Who.SERVICE)
"""Services among themselves, each by its own certificate; the gateway has no such door."""
EVERYBODY = who(Who.NOBODY)

_PROJECT = "/projects/{project_id}"
_INVITATION = "/project-invitations/{invitation_id}"
_BREAK_GLASS = "/break-glass/{break_glass_id}"
_DATASET = _PROJECT + "/datasets/{dataset_id}"
_JOB = _PROJECT + "/jobs/{job_id}"
_RUN = "/runs/{run_id}"
_ME = "/users/me"
_USER = "/users/{user_id}"
_GROUP = "/groups/{group_id}"


def _own(method: str, path: str, *when: Condition, step_up: bool = False, cookies: bool = False, secret: bool = False) -> Rule:
    """A door of auth to what belongs to the caller."""
    return Rule(Service.AUTH, method, path, SIGNED_IN, when=when, session=True, step_up=step_up, cookies=cookies, secret=secret)


def _administered(method: str, path: str, *when: Condition, step_up: bool = False) -> Rule:
    """A door of auth for administrators."""
    return Rule(Service.AUTH, method, path, ADMINISTRATOR, when=when, session=True, step_up=step_up)


def _invited(method: str, path: str, *when: Condition) -> Rule:
    """A door for whoever is invited into a project, while the invitation is open."""
    return Rule(Service.PROJECTS, method, _INVITATION + path, SIGNED_IN, when=(Condition.PROJECT_INVITATION_IS_OPEN, *when), session=True)


def _open(method: str, path: str, *when: Condition, cookies: bool = False) -> Rule:
    """A door of auth for whoever shows what its condition asks for."""
    return Rule(Service.AUTH, method, path, EVERYBODY, when=when, cookies=cookies, secret=True)


def _decided(method: str, path: str, *when: Condition) -> Rule:
    """A door of projects, below a project's path, at which its Data Owners decide what it is and who is in."""
    return Rule(Service.PROJECTS, method, _PROJECT + path, OWNER, when=when, hides=True, session=True)


_MADE = (Condition.OWNERS_NEED_FRESH_FACTOR, Condition.NOBODY_RAISES_THEMSELVES)
_GIVEN = (*_MADE, Condition.OWNERS_GIVE_WITHIN_THEIR_TIME)

POLICY: dict[Action, Rule] = {
    Action.INVITATION_ACCEPT: _open("POST", "/invitations/acceptance", Condition.INVITATION_IS_OPEN),
    Action.INVITATION_CONFIRM: _open("POST", "/invitations/confirmation", Condition.INVITATION_IS_OPEN),
    Action.SESSION_CREATE: _open("POST", "/sessions", Condition.SECOND_FACTOR_IS_RIGHT, Condition.CLIENT_CODE_IS_OPEN, cookies=True),
    Action.SESSION_REFRESH: _open("POST", "/sessions/refresh", Condition.REFRESH_TOKEN_IS_CURRENT, cookies=True),
    Action.SESSION_LIST: _own("GET", "/sessions"),
    Action.SESSION_END: _own("DELETE", "/sessions/{session_id}", Condition.SESSION_IS_OWN, cookies=True),
    Action.SESSION_END_ALL: _own("DELETE", "/sessions", cookies=True),
    Action.SESSION_STEP_UP: _own("POST", "/sessions/current/factor", Condition.SECOND_FACTOR_IS_RIGHT, secret=True),
    Action.PASSKEY_CHALLENGE: _open("POST", "/passkey-challenges"),
    Action.SIGN_IN_PAGE: _open("GET", "/sign-in"),
    Action.CLIENT_CODE_CREATE: _own("POST", "/client-codes", Condition.SIGN_IN_IS_RECENT),
    Action.OIDC_LIST: _open("GET", "/oidc"),
    Action.OIDC_START: _open("GET", "/oidc/{provider}/start", Condition.PROVIDER_IS_KNOWN, cookies=True),
    Action.OIDC_CALLBACK: _open("GET", "/oidc/{provider}/callback", Condition.PROVIDER_IS_KNOWN, cookies=True),
    Action.OIDC_LOGOUT: _open("POST", "/oidc/{provider}/logout", Condition.PROVIDER_IS_KNOWN),
    Action.FACTOR_LIST: _own("GET", _ME + "/factors"),
    Action.TOTP_CREATE: _own("POST", _ME + "/totp", step_up=True),
    Action.TOTP_CONFIRM: _own("POST", _ME + "/totp/confirmation", Condition.SECOND_FACTOR_IS_RIGHT, step_up=True),
    Action.TOTP_REMOVE: _own("DELETE", _ME + "/totp", Condition.A_FACTOR_STAYS, step_up=True),
    Action.PASSKEY_OPTIONS: _own("POST", _ME + "/passkeys/options", step_up=True),
    Action.PASSKEY_ADD: _own("POST", _ME + "/passkeys", Condition.SECOND_FACTOR_IS_RIGHT, step_up=True),
    Action.PASSKEY_REMOVE: _own("DELETE", _ME + "/passkeys/{passkey_id}", Condition.A_FACTOR_STAYS, step_up=True),
    Action.RECOVERY_CODES_CREATE: _own("POST", _ME + "/recovery-codes", step_up=True),
    Action.ENROLMENT_ACCEPT: _open(
        "POST", "/factor-enrolments/acceptance", Condition.LINK_IS_OPEN, Condition.FIRST_FACTOR_IS_SHOWN, cookies=True
    ),
    Action.ENROLMENT_CONFIRM: _open("POST", "/factor-enrolments/confirmation", Condition.LINK_IS_OPEN),
    Action.PASSWORD_CHANGE: _own("POST", _ME + "/password", Condition.PASSWORD_IS_RIGHT, step_up=True, secret=True),
    Action.PASSWORD_RESET_ASK: _open("POST", "/password-resets"),
    Action.PASSWORD_RESET_ACCEPT: _open("POST", "/password-resets/acceptance", Condition.LINK_IS_OPEN),
    Action.KEY_CREATE: _own("POST", "/keys", Condition.SCOPES_ARE_OPEN, step_up=True),
    Action.KEY_LIST: _own("GET", "/keys"),
    Action.KEY_END: _own("DELETE", "/keys/{key_id}", Condition.KEY_IS_OWN),
    Action.REGISTRATION_ASK: _open("POST", "/registrations", Condition.REGISTRATION_IS_OPEN),
    Action.REGISTRATION_LIST: _administered("GET", "/registrations"),
    Action.REGISTRATION_APPROVE: _administered("POST", "/registrations/{registration_id}/approval", Condition.REGISTRATION_IS_OPEN),
    Action.REGISTRATION_DECLINE: _administered("DELETE", "/registrations/{registration_id}", Condition.REGISTRATION_IS_OPEN),
    Action.USER_CREATE: _administered("POST", "/users", Condition.ROLES_NEED_FRESH_FACTOR),
    Action.USER_LIST: _administered("GET", "/users"),
    Action.USER_READ: _administered("GET", _USER),
    Action.USER_READ_SELF: _own("GET", _ME),
    Action.USER_CHANGE: _administered("PATCH", _USER, Condition.LAST_ADMINISTRATOR_STAYS, Condition.ROLES_NEED_FRESH_FACTOR),
    Action.USER_SESSION_LIST: _administered("GET", _USER + "/sessions"),
    Action.USER_SESSION_END_ALL: _administered("DELETE", _USER + "/sessions"),
    Action.USER_KEY_LIST: _administered("GET", _USER + "/keys"),
    Action.USER_KEY_END_ALL: _administered("DELETE", _USER + "/keys"),
    Action.USER_PASSWORD_RESET: _administered("POST", _USER + "/password-reset", step_up=True),
    Action.USER_FACTOR_RESET: _administered("POST", _USER + "/factor-reset", step_up=True),
    Action.GROUP_CREATE: _administered("POST", "/groups", step_up=True),
    Action.GROUP_LIST: _administered("GET", "/groups"),
    Action.GROUP_CHANGE: _administered("PATCH", _GROUP, Condition.LAST_ADMINISTRATOR_STAYS, step_up=True),
    Action.GROUP_REMOVE: _administered("DELETE", _GROUP, Condition.LAST_ADMINISTRATOR_STAYS, step_up=True),
    Action.GROUP_MEMBER_LIST: _administered("GET", _GROUP + "/members"),
    Action.GROUP_MEMBER_ADD: _administered("PUT", _GROUP + "/members/{user_id}", step_up=True),
    Action.GROUP_MEMBER_REMOVE: _administered("DELETE", _GROUP + "/members/{user_id}", Condition.LAST_ADMINISTRATOR_STAYS, step_up=True),
    Action.SIGNING_KEY_LIST: _administered("GET", "/signing-keys"),
    Action.SIGNING_KEY_ROTATE: _administered("POST", "/signing-keys", step_up=True),
    Action.SIGNING_KEY_WITHDRAW: _administered("DELETE", "/signing-keys/{signing_key_id}", Condition.SIGNING_KEY_IS_SPARE, step_up=True),
    Action.PROJECT_CREATE: Rule(Service.PROJECTS, "POST", "/projects", SIGNED_IN, when=(Condition.CREATING_IS_OPEN,), session=True),
    Action.PROJECT_LIST: Rule(Service.PROJECTS, "GET", "/projects", SIGNED_IN),
    Action.PROJECT_READ: Rule(Service.PROJECTS, "GET", _PROJECT, MEMBER, hides=True),
    Action.PROJECT_CHANGE: _decided("PATCH", ""),
    Action.PROJECT_ARCHIVE: Rule(Service.PROJECTS, "POST", _PROJECT + "/archive", OWNER, hides=True, session=True),
    Action.PROJECT_RESTORE: Rule(Service.PROJECTS, "POST", _PROJECT + "/restoration", OWNER, hides=True, session=True),
    Action.PROJECT_DELETE: Rule(
        Service.PROJECTS,
        "POST",
        _PROJECT + "/deletion",
        OWNER,
        when=(Condition.NAME_IS_REPEATED,),
        hides=True,
        session=True,
        step_up=True,
    ),
    Action.ERASURE_LIST: Rule(Service.PROJECTS, "GET", "/erasure-certificates", SIGNED_IN, session=True),
    Action.ERASURE_READ: Rule(
        Service.PROJECTS, "GET", "/erasure-certificates/{erased_id}", SIGNED_IN, when=(Condition.ERASURE_IS_VISIBLE,), session=True
    ),
    Action.MEMBER_ADD: _decided("POST", "/members", *_GIVEN),
    Action.MEMBER_LIST: Rule(Service.PROJECTS, "GET", _PROJECT + "/members", MEMBER, hides=True),
    Action.MEMBER_CHANGE: _decided("PATCH", "/members/{user_id}", Condition.LAST_OWNER_STAYS, *_GIVEN),
    Action.MEMBER_REMOVE: _decided("DELETE", "/members/{user_id}", Condition.LAST_OWNER_STAYS, *_GIVEN),
    Action.MEMBER_LEAVE: Rule(
        Service.PROJECTS,
        "DELETE",
        _PROJECT + "/members/me",
        MEMBER,
        when=(Condition.LAST_OWNER_STAYS, Condition.OWNERS_NEED_FRESH_FACTOR, Condition.NOBODY_RAISES_THEMSELVES),
        hides=True,
        session=True,
    ),
    Action.PROJECT_INVITATION_CREATE: _decided("POST", "/invitations", *_GIVEN),
    Action.PROJECT_INVITATION_LIST: Rule(Service.PROJECTS, "GET", _PROJECT + "/invitations", OWNER, hides=True),
    Action.PROJECT_INVITATION_WITHDRAW: _decided("DELETE", "/invitations/{invitation_id}"),
    Action.PROJECT_INVITATION_LIST_OWN: Rule(Service.PROJECTS, "GET", "/project-invitations", SIGNED_IN, session=True),
    Action.PROJECT_INVITATION_ACCEPT: _invited(
        "POST", "/acceptance", Condition.INVITER_IS_STILL_OWNER, Condition.OWNERS_NEED_FRESH_FACTOR, Condition.OWNERS_GIVE_WITHIN_THEIR_TIME
    ),
    Action.PROJECT_INVITATION_DECLINE: _invited("DELETE", ""),
    Action.GROUP_ROLE_GIVE: _decided("POST", "/group-roles", *_GIVEN),
    Action.GROUP_ROLE_LIST: Rule(Service.PROJECTS, "GET", _PROJECT + "/group-roles", MEMBER, hides=True),
    Action.GROUP_ROLE_REMOVE: _decided("DELETE", "/group-roles/{group_role_id}", Condition.OWNERS_NEED_FRESH_FACTOR),
    Action.ACTIVITY_LIST: Rule(Service.PROJECTS, "GET", _PROJECT + "/activity", MEMBER, hides=True),
    Action.BREAK_GLASS_OPEN: Rule(Service.PROJECTS, "POST", "/break-glass", ADMINISTRATOR, session=True, step_up=True),
    Action.BREAK_GLASS_LIST: Rule(Service.PROJECTS, "GET", "/break-glass", who(Who.ADMINISTRATOR, Who.AUDITOR), session=True),
    Action.BREAK_GLASS_END: Rule(Service.PROJECTS, "DELETE", _BREAK_GLASS, ADMINISTRATOR, when=_MADE, session=True),
    Action.BREAK_GLASS_REVIEW: Rule(
        Service.PROJECTS, "POST", _BREAK_GLASS + "/review", AUDITOR, when=(Condition.REVIEWER_IS_ANOTHER,), session=True
    ),
    Action.OWNER_APPOINT: Rule(
        Service.PROJECTS,
        "POST",
        "/owner-appointments",
        ADMINISTRATOR,
        when=(Condition.PROJECT_HAS_NO_OWNER, Condition.NOBODY_RAISES_THEMSELVES),
        session=True,
        step_up=True,
    ),
    Action.PROJECT_BREAK_GLASS_LIST: Rule(Service.PROJECTS, "GET", _PROJECT + "/break-glass", OWNER, hides=True),
    Action.PROJECT_BREAK_GLASS_REVIEW: _decided("POST", _BREAK_GLASS + "/review", Condition.REVIEWER_IS_ANOTHER),
    Action.CERTIFICATE_CREATE: Rule(Service.CA, "POST", _PROJECT + "/certificates", MEMBER, hides=True, session=True),
    Action.CERTIFICATE_LIST: Rule(Service.CA, "GET", _PROJECT + "/certificates", MEMBER, hides=True),
    Action.CERTIFICATE_REVOKE: Rule(
        Service.CA, "DELETE", _PROJECT + "/certificates/{certificate_id}", MEMBER, when=(Condition.CERTIFICATE_IS_OWN,), hides=True
    ),
    Action.CRL_READ: Rule(Service.CA, "GET", "/crls/{issuer}", EVERYBODY, cacheable=True),
    Action.OCSP_ASK: Rule(Service.CA, "POST", "/ocsp", EVERYBODY, max_body=4 * KIB),
    Action.OCSP_ASK_BY_PATH: Rule(Service.CA, "GET", "/ocsp/{request:path}", EVERYBODY),
    Action.ISSUER_READ: Rule(Service.CA, "GET", "/issuers/{issuer}", EVERYBODY, cacheable=True),
    Action.SERVICE_CERTIFICATE_CREATE: Rule(Service.CA, "POST", "/service-certificates", SERVICE),
    Action.DATASET_CREATE: Rule(Service.DATASETS, "POST", _PROJECT + "/datasets", OWNER, hides=True),
    Action.DATASET_LIST: Rule(Service.DATASETS, "GET", _PROJECT + "/datasets", MEMBER, hides=True),
    Action.DATASET_READ: Rule(Service.DATASETS, "GET", _DATASET, MEMBER, when=(Condition.DATASET_IS_READABLE,), hides=True),
    Action.DATASET_CHANGE: Rule(Service.DATASETS, "PATCH", _DATASET, OWNER, when=(Condition.DATASET_IS_OWN,), hides=True),
    Action.FILE_UPLOAD: Rule(
        Service.DATASETS, "PUT", _DATASET + "/files/{path:path}", OWNER, when=(Condition.DATASET_IS_OWN,), hides=True, max_body=None
    ),
    Action.FILE_LIST: Rule(Service.DATASETS, "GET", _DATASET + "/files", MEMBER, when=(Condition.DATASET_IS_READABLE,), hides=True),
    Action.FILE_DOWNLOAD: Rule(
        Service.DATASETS,
        "GET",
        _DATASET + "/files/{path:path}",
        OWNER,
        when=(Condition.ORIGINS_ARE_OWN,),
        hides=True,
        carries_bytes=True,
    ),
    Action.SHARE_OFFER: Rule(Service.DATASETS, "POST", _DATASET + "/shares", OWNER, when=(Condition.DATASET_IS_OWN,), hides=True),
    Action.SHARE_LIST: Rule(Service.DATASETS, "GET", _DATASET + "/shares", MEMBER, when=(Condition.DATASET_IS_OWN,), hides=True),
    Action.SHARE_WITHDRAW: Rule(
        Service.DATASETS, "DELETE", _DATASET + "/shares/{share_id}", OWNER, when=(Condition.DATASET_IS_OWN,), hides=True
    ),
    Action.SHARE_LIST_INCOMING: Rule(Service.DATASETS, "GET", _PROJECT + "/incoming-shares", MEMBER, hides=True),
    Action.SHARE_ACCEPT: Rule(
        Service.DATASETS,
        "POST",
        _PROJECT + "/incoming-shares/{share_id}/acceptance",
        OWNER,
        when=(Condition.SHARE_IS_FOR_PROJECT,),
        hides=True,
    ),
    Action.RUN_INPUT_LIST: Rule(Service.DATASETS, "GET", _RUN + "/inputs/{dataset_id}/files", JOB, when=(Condition.RUN_IS_LIVE,)),
    Action.RUN_INPUT_READ: Rule(
        Service.DATASETS,
        "GET",
        _RUN + "/inputs/{dataset_id}/files/{path:path}",
        JOB,
        when=(Condition.RUN_IS_LIVE,),
        carries_bytes=True,
    ),
    Action.RUN_OUTPUT_STAGE: Rule(
        Service.DATASETS, "PUT", _RUN + "/outputs/{path:path}", JOB, when=(Condition.RUN_IS_LIVE,), max_body=None
    ),
    Action.JOB_SUBMIT: Rule(Service.JOBS, "POST", _PROJECT + "/jobs", MEMBER, when=(Condition.INPUTS_ARE_READABLE,), hides=True),
    Action.JOB_LIST: Rule(Service.JOBS, "GET", _PROJECT + "/jobs", MEMBER, hides=True),
    Action.JOB_READ: Rule(Service.JOBS, "GET", _JOB, MEMBER, when=(Condition.LOG_BUDGET_LEFT,), hides=True),
    Action.JOB_CANCEL: Rule(Service.JOBS, "POST", _JOB + "/cancellation", MEMBER, hides=True),
    Action.JOB_LOG: Rule(Service.JOBS, "GET", _JOB + "/log", MEMBER, when=(Condition.LOG_BUDGET_LEFT,), hides=True),
    Action.AGENT_CREATE: Rule(Service.JOBS, "POST", "/agents", ADMINISTRATOR, session=True),
    Action.AGENT_LIST: Rule(Service.JOBS, "GET", "/agents", ADMINISTRATOR, session=True),
    Action.AGENT_WITHDRAW: Rule(Service.JOBS, "DELETE", "/agents/{agent_id}", ADMINISTRATOR, session=True),
    Action.AGENT_ENROL: Rule(Service.JOBS, "POST", "/agents/enrolment", EVERYBODY, when=(Condition.ENROLMENT_TOKEN_IS_OPEN,), secret=True),
    Action.LEASE_TAKE: Rule(Service.JOBS, "POST", "/leases", AGENT),
    Action.LEASE_READ: Rule(Service.JOBS, "GET", "/leases/{run_id}", AGENT, when=(Condition.LEASE_IS_HELD,)),
    Action.LEASE_RENEW: Rule(Service.JOBS, "POST", "/leases/{run_id}/renewal", AGENT, when=(Condition.LEASE_IS_HELD,)),
    Action.RUN_LOG: Rule(Service.JOBS, "POST", "/leases/{run_id}/log", AGENT, when=(Condition.LEASE_IS_HELD,)),
    Action.RUN_REPORT: Rule(Service.JOBS, "POST", "/leases/{run_id}/report", AGENT, when=(Condition.LEASE_IS_HELD,)),
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
    SCOPE_MISSING = "scope-missing"
    FACTOR_TOO_OLD = "factor-too-old"


@dataclass(frozen=True)
class Decision:
    """The answer of the policy. ``status`` is the HTTP status of a refusal (0 when allowed)."""

    allowed: bool
    reason: Reason
    status: int = 0


ALLOWED = Decision(allowed=True, reason=Reason.ALLOWED)
_NO_SUCH_ACTION, _NOT_A_MEMBER = (Decision(allowed=False, reason=r, status=404) for r in (Reason.ROLE_MAY_NOT, Reason.NOT_A_MEMBER))
_NOT_SIGNED_IN, _FACTOR_TOO_OLD = (Decision(allowed=False, reason=r, status=401) for r in (Reason.NOT_SIGNED_IN, Reason.FACTOR_TOO_OLD))
_SESSION_NEEDED, _SCOPE_MISSING = (Decision(allowed=False, reason=r, status=403) for r in (Reason.SESSION_NEEDED, Reason.SCOPE_MISSING))
_WRONG_PRINCIPAL, _ROLE_MAY_NOT = (Decision(allowed=False, reason=r, status=403) for r in (Reason.WRONG_PRINCIPAL, Reason.ROLE_MAY_NOT))


def columns_of(actor: Actor) -> frozenset[Who]:
    """The columns of the policy that an actor stands in; a role counts only in the project of the request."""
    columns = _COLUMNS[actor.principal]
    if actor.principal is Principal.PERSON:
        if actor.role is not None:
            columns |= _ROLE_COLUMNS[actor.role]
        for role in actor.cluster_roles:
            columns |= _CLUSTER_COLUMNS[role]
    return columns


def decide(actor: Actor, action: Action) -> Decision:
    """Whether ``actor`` may do ``action``: pure, total, deny by default. Conditions are checked by the owner later."""
    rule = POLICY.get(action)
    if rule is None:
        return _NO_SUCH_ACTION
    if not rule.who.isdisjoint(columns_of(actor)):
        if rule.session and actor.session_id is None:
            return _SESSION_NEEDED
        if actor.scopes is not None and action.value not in actor.scopes and Who.NOBODY not in rule.who:
            return _SCOPE_MISSING
        if rule.step_up and not actor.factor_fresh:
            return _FACTOR_TOO_OLD
        return ALLOWED
    return _refusal(actor, rule)


def scopes() -> frozenset[str]:
    """The actions that an API key can be given: whatever a person does without having to be there."""
    columns = SIGNED_IN | MEMBER
    return frozenset(action.value for action, rule in POLICY.items() if rule.who & columns and not rule.session)


def _refusal(actor: Actor, rule: Rule) -> Decision:
    """The answer for someone who stands in none of the row's columns."""
    if actor.principal is Principal.NOBODY:
        return _NOT_SIGNED_IN
    if rule.hides and actor.role is None:
        return _NOT_A_MEMBER
    if actor.principal is not Principal.PERSON:
        return _WRONG_PRINCIPAL
    return _ROLE_MAY_NOT


_COLUMNS = {each: frozenset({Who.NOBODY, Who.SIGNED_IN if each is Principal.PERSON else Who(each.value)}) for each in Principal}
_CLUSTER_COLUMNS = {ClusterRole.ADMINISTRATOR: frozenset({Who.ADMINISTRATOR}), ClusterRole.AUDITOR: frozenset({Who.AUDITOR})}
_ROLE_COLUMNS = {Role.DATA_OWNER: frozenset({Who.DATA_OWNER}), Role.DATA_SCIENTIST: frozenset({Who.DATA_SCIENTIST})}
