"""The surfaces: everything by which a person reaches something for longer than one request, and the deeds that end it within a second.

Each row of the policy that begins or moves something, and each topic, belongs to a surface, or is listed here with the reason why nothing outlasts
its request (``tests/contracts/test_surfaces.py`` says which rows those are).
``examples/wdbc/probes.py`` asks every surface; the demo, the journeys and ``bench/revoke.py`` use those probes. Whoever adds an export
link, a topic for streams or a notebook adds its surface here and its probe there: tests fail until both are done.
"""

from dataclasses import dataclass
from enum import StrEnum

from contracts.events import CERTIFICATES, CREDENTIALS, JOBS, MEMBERSHIPS, RUNS, SESSIONS, SHARES, SIGNING_KEYS, USERS, Topic
from contracts.policy import Action


class Deed(StrEnum):
    """What takes a person's rights away."""

    REMOVED = "an owner removes the member"
    EXPIRED = "the membership comes to its end"
    BLOCKED = "an administrator blocks the person"


class Surface(StrEnum):
    """By what a person reaches something."""

    ACCESS_TOKEN = "access token"  # noqa: S105 - a name
    REFRESH = "refresh"
    API_KEY = "API key"
    PROJECT_CERTIFICATE = "project certificate"
    OCSP = "OCSP"
    CRL = "CRL"
    DOWNLOAD = "open download"
    UPLOAD = "open upload"
    QUEUED_JOB = "queued job"
    RUNNING_JOB = "running job"
    SEARCH = "search"
    AGENT = "agent"


@dataclass(frozen=True)
class Reach:
    """One surface: what it must not do after a deed, and the rows and topics that it lives by.

    ``asks``: it is seen by asking at least 20 times a second; else it is one long transfer, which is cut.
    """

    ends: str
    actions: tuple[Action, ...] = ()
    topics: tuple[Topic, ...] = ()
    asks: bool = True


REACHES: dict[Surface, Reach] = {
    Surface.ACCESS_TOKEN: Reach(
        "A token of the person opens nothing of the project.",
        (Action.SESSION_CREATE, Action.OIDC_CALLBACK, Action.CLIENT_CODE_CREATE, Action.INVITATION_CONFIRM, Action.ENROLMENT_CONFIRM),
        (USERS, SESSIONS, SIGNING_KEYS, MEMBERSHIPS),
    ),
    Surface.REFRESH: Reach(
        "Renewing the sign-in is refused, or gives a token that opens nothing of the project.", (Action.SESSION_REFRESH,), (SESSIONS,)
    ),
    Surface.API_KEY: Reach("An API key of the person opens nothing of the project.", (Action.KEY_CREATE,), (CREDENTIALS,)),
    Surface.PROJECT_CERTIFICATE: Reach(
        "A project certificate of the person opens nothing at the gateway.", (Action.CERTIFICATE_CREATE,), (CERTIFICATES,)
    ),
    Surface.OCSP: Reach(
        "The status of the person's project certificate is not good.", (Action.OCSP_ASK, Action.OCSP_ASK_BY_PATH), (CERTIFICATES,)
    ),
    Surface.CRL: Reach("The list of revoked certificates names the person's.", (Action.CRL_READ,), (CERTIFICATES,)),
    Surface.DOWNLOAD: Reach("No more byte of a download under way leaves.", (Action.FILE_DOWNLOAD,), asks=False),
    Surface.UPLOAD: Reach("An upload under way is cut, and nothing of it is stored.", (Action.FILE_UPLOAD,), asks=False),
    Surface.QUEUED_JOB: Reach("A job of the person that waits is cancelled.", (Action.JOB_SUBMIT, Action.LEASE_TAKE), (JOBS, RUNS)),
    Surface.RUNNING_JOB: Reach(
        "A job of the person that runs is cancelled, and its machine is told and ends it.",
        (Action.LEASE_READ, Action.LEASE_RENEW, Action.RUN_LOG, Action.RUN_REPORT),
        (RUNS,),
    ),
    Surface.SEARCH: Reach("Searching finds nothing of the project.", (Action.SEARCH,)),
    Surface.AGENT: Reach(
        "Who acts for the person, with a job's certificate, neither reads its inputs nor leaves outputs.",
        (Action.RUN_INPUT_LIST, Action.RUN_INPUT_READ, Action.RUN_OUTPUT_STAGE),
        (CERTIFICATES, RUNS),
    ),
}

_ONCE = "what opens it is a secret that is used up, and what it gives is a session or nothing"
_SAME_FOR_ALL = "everybody gets the same answer, and it is about nobody"
_MACHINES = "an agent's own right to be one; what it does for a person is the surface of the job"

_SIGN_IN = "it changes how somebody signs in from then on; what a sign-in gives is a surface"
_MEMBERSHIP = "what it gives is a membership, and the deed ends that one itself"
_RECORD = "what it leaves belongs to the project; a person reaches it by their membership"

NOTHING_LASTS: dict[Action, str] = {
    Action.INVITATION_ACCEPT: _ONCE,
    Action.PASSKEY_CHALLENGE: _ONCE,
    Action.OIDC_START: _ONCE,
    Action.OIDC_LOGOUT: "it only ends sessions",
    Action.ENROLMENT_ACCEPT: _ONCE,
    Action.PASSWORD_RESET_ASK: _ONCE,
    Action.PASSWORD_RESET_ACCEPT: _ONCE,
    Action.REGISTRATION_ASK: _ONCE,
    Action.SIGN_IN_PAGE: _SAME_FOR_ALL,
    Action.OIDC_LIST: _SAME_FOR_ALL,
    Action.ISSUER_READ: _SAME_FOR_ALL,
    Action.AGENT_ENROL: _MACHINES,
    Action.AGENT_CREATE: _MACHINES,
    Action.SERVICE_CERTIFICATE_CREATE: "a service's own right to be one; no person has it",
    Action.SESSION_STEP_UP: _SIGN_IN,
    Action.TOTP_CREATE: _SIGN_IN,
    Action.TOTP_CONFIRM: _SIGN_IN,
    Action.PASSKEY_OPTIONS: _SIGN_IN,
    Action.PASSKEY_ADD: _SIGN_IN,
    Action.RECOVERY_CODES_CREATE: _SIGN_IN,
    Action.PASSWORD_CHANGE: _SIGN_IN,
    Action.REGISTRATION_APPROVE: _ONCE,
    Action.USER_CREATE: _ONCE,
    Action.USER_PASSWORD_RESET: _ONCE,
    Action.USER_FACTOR_RESET: _ONCE,
    Action.SIGNING_KEY_ROTATE: "the key is the installation's; what it signs is the surface of the access token",
    Action.PROJECT_CREATE: _MEMBERSHIP,
    Action.MEMBER_ADD: _MEMBERSHIP,
    Action.OWNER_APPOINT: _MEMBERSHIP,
    Action.PROJECT_INVITATION_CREATE: _MEMBERSHIP,
    Action.PROJECT_INVITATION_ACCEPT: _MEMBERSHIP,
    Action.GROUP_ROLE_GIVE: _MEMBERSHIP,
    Action.GROUP_CREATE: _MEMBERSHIP,
    Action.GROUP_MEMBER_ADD: _MEMBERSHIP,
    Action.BREAK_GLASS_OPEN: _MEMBERSHIP,
    Action.BREAK_GLASS_REVIEW: _RECORD,
    Action.PROJECT_BREAK_GLASS_REVIEW: _RECORD,
    Action.PROJECT_ARCHIVE: _RECORD,
    Action.PROJECT_RESTORE: _RECORD,
    Action.PROJECT_DELETE: _RECORD,
    Action.DATASET_CREATE: _RECORD,
    Action.SHARE_OFFER: _RECORD,
    Action.SHARE_ACCEPT: _RECORD,
    Action.JOB_CANCEL: "it only ends jobs",
}
"""Rows that begin something or move something, and by which nobody holds anything that a deed has to end."""

NOBODYS: dict[str, str] = {
    SHARES.name: "a share is a project's; a person reaches it by their membership, and the owner of the data withdraws it",
    "agents": _MACHINES,
    "break-glass": "it tells of a membership, and that one is a surface's",
    "activity": "it says that a session was used, and gives nothing",
}
