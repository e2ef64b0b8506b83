"""The surfaces: everything by which a person reaches something for longer than one request, and the deeds that end it within a second.

Each row of the policy and each topic belongs to a surface, or is listed here with the reason why nothing outlasts its request.
``examples/wdbc/probes.py`` asks every surface; the demo, the journeys and ``bench/revoke.py`` use those probes. Whoever adds an export
link, a topic for streams or a notebook adds its surface here and its probe there: tests fail until both are done.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from contracts.events import CERTIFICATES, CREDENTIALS, FACTS, JOBS, MEMBERSHIPS, RUNS, SESSIONS, SHARES, SIGNING_KEYS, TOPICS, USERS, Topic
from contracts.policy import POLICY, Action, Service, Who


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
}

NOBODYS: dict[str, str] = {
    SHARES.name: "a share is a project's; a person reaches it by their membership, and the owner of the data withdraws it",
    "agents": _MACHINES,
    "break-glass": "it tells of a membership, and that one is a surface's",
    "activity": "it says that a session was used, and gives nothing",
}


def lasting(action: Action) -> bool:
    """Whether a row's right may outlast the decision at the gateway, so that it has to belong to a surface.

    It moves bytes for as long as they flow, somebody acts for a person who is not there, nobody's membership is looked at, or
    the answer comes from a copy of what others own.
    """
    rule = POLICY[action]
    return (
        rule.carries_bytes
        or rule.max_body is None
        or rule.cacheable
        or bool(rule.who & {Who.AGENT, Who.JOB, Who.NOBODY})
        or rule.service is Service.SEARCH
    )


def unreached() -> list[Action]:
    """Rows whose right may last and that neither belong to a surface nor are said to give nothing that lasts."""
    known = {action for reach in REACHES.values() for action in reach.actions} | set(NOTHING_LASTS)
    return [action for action in POLICY if lasting(action) and action not in known]


def unheard(topics: Iterable[Topic] = tuple(TOPICS.values())) -> list[str]:
    """Topics by which a person may hold something (authority, or facts that name a person or an agent) and that no surface lives by."""
    known = {topic.name for reach in REACHES.values() for topic in reach.topics} | set(NOBODYS)
    about = {fact.topic.name for fact in FACTS.values() if fact.model_fields.keys() & {"user_id", "submitted_by", "agent_id"}}
    return [topic.name for topic in topics if topic.name not in known and (topic.authority or topic.name in about)]
