"""The shapes of what the doors answer: JSON objects, so that they can be printed as they came. Times are RFC 3339."""

from typing import Any, Literal, NotRequired, TypedDict

Role = Literal["data_owner", "data_scientist"]


class User(TypedDict):
    """A person's account."""

    user_id: str
    username: str
    email: str
    status: str
    cluster_roles: list[str]
    groups: list[str]
    version: int
    created_at: str


class UserDetail(User):
    """An account by itself: ``own_roles`` were given to the person, ``cluster_roles`` count those of their groups, too."""

    own_roles: list[str]
    source: str
    factors: dict[str, int]
    last_sign_in_at: str | None


class Invited(User):
    """An account that may be invited: ``invitation`` is its one-time token, None where it was ``mailed`` to the person or there is none."""

    invitation: str | None
    mailed: bool


class SecondFactor(TypedDict):
    """What an authenticator application needs: base32 secret, ``otpauth://`` URI, and that as a QR code (SVG).

    ``policy``: what the person's groups ask for, where that may be a passkey.
    """

    username: str
    totp_secret: str
    totp_uri: str
    totp_svg: NotRequired[str]
    policy: NotRequired[str]


class Session(TypedDict):
    """A sign-in; ``access_token`` and ``user`` only in the answer that made it or renewed it.

    ``method`` says how it was opened, ``factor_at`` when a second factor was last shown, ``client`` and ``source`` from where it was used.
    """

    session_id: str
    session_expires_at: NotRequired[str]
    expires_at: NotRequired[str]
    access_token: NotRequired[str]
    user: NotRequired[User]
    recovery_codes_left: NotRequired[int | None]
    created_at: NotRequired[str]
    last_used_at: NotRequired[str]
    factor_at: NotRequired[str]
    method: NotRequired[str]
    client: NotRequired[str]
    source: NotRequired[str]
    current: NotRequired[bool]
    version: NotRequired[int]


class SteppedUp(TypedDict):
    """A session whose second factor was just shown once more."""

    session_id: str
    factor_at: str
    version: int


class Totp(TypedDict):
    """An authenticator application, and since when it counts."""

    since: str


class Passkey(TypedDict):
    """A passkey; ``backed_up``: it is kept in more than one device."""

    passkey_id: str
    name: str
    created_at: str
    last_used_at: str | None
    backed_up: bool


class Factors(TypedDict):
    """A person's second factors; ``policy`` is what their groups ask for: ``optional``, ``required`` or ``passkey``."""

    totp: Totp | None
    passkeys: list[Passkey]
    recovery_codes_left: int
    policy: str


class RecoveryCodes(TypedDict):
    """Codes that each open one session in the place of another second factor."""

    codes: list[str]


class Link(TypedDict):
    """A one-time link for a person; ``link_token`` is None where it was ``mailed`` to them."""

    user_id: str
    link_token: str | None
    mailed: bool


class Registration(TypedDict):
    """Somebody's request for an account."""

    registration_id: str
    email: str
    note: str
    created_at: str


class ApiKey(TypedDict):
    """A key for programs: ``scopes`` are the actions that it opens, in one project or (None) in all of its person's."""

    key_id: str
    name: str
    scopes: list[str]
    project_id: str | None
    created_at: str
    expires_at: str
    last_used_at: str | None
    version: int


class NewApiKey(ApiKey):
    """A key with the ``secret`` that programs show."""

    secret: str


class Group(TypedDict):
    """People who have a second-factor policy, cluster roles or roles in projects in common."""

    group_id: str
    name: str
    factor_policy: str | None
    cluster_roles: list[str]
    external: list[str]
    version: int


class GroupMember(TypedDict):
    """Somebody in a group, put there ``by_hand`` or ``by_directory`` (or a provider), or both."""

    user_id: str
    username: str
    by_hand: bool
    by_directory: bool


class SigningKey(TypedDict):
    """A key that ``signs`` access tokens from ``signs_from`` on, or signed them until ``replaced_at``; ``live``: they are checked with it."""

    signing_key_id: str
    live: bool
    signs: bool
    created_at: str
    signs_from: str
    replaced_at: str | None
    version: int


class GroupRole(TypedDict):
    """What the people of a group are in a project."""

    group_role_id: str
    project_id: str
    group: str
    role: str
    purpose: str
    ends_at: str | None
    created_at: str


class Deletion(TypedDict):
    """How far a project's deletion is: which services closed it, which purged it, and for whose answer it waits."""

    asked_by: str
    asked_at: str
    purging_at: str | None
    closed: list[str]
    purged: list[str]
    awaited: list[str]


class Erasure(TypedDict):
    """A certificate of erasure: ``sha256`` is that of ``document`` in UTF-8, and stands in the ledger."""

    project_id: str
    asked_by: str
    asked_at: str
    erased_at: str
    sha256: str
    document: str


class BreakGlassCounts(TypedDict):
    """How many break-glass in a project are open now, and how many wait for the caller's review."""

    open: int
    to_review: int


class Project(TypedDict):
    """A sandbox; ``role`` is the caller's. ``deletion``: how far it is, where it was asked for.

    ``break_glass``: told to its Data Owners.
    """

    project_id: str
    name: str
    description: str
    purpose: str
    legal_basis: str
    ethics_approval_id: str
    ends_at: str | None
    state: str
    role: str | None
    version: int
    created_at: str
    deletion: NotRequired[Deletion | None]
    break_glass: NotRequired[BreakGlassCounts | None]


class Member(TypedDict):
    """A person's role in a project; ``by_group``: the group that it comes by, if any."""

    project_id: str
    user_id: str
    username: str
    role: str
    purpose: str
    starts_at: str
    ends_at: str | None
    version: int
    by_group: NotRequired[str | None]
    break_glass_id: NotRequired[str | None]


class ProjectInvitation(TypedDict):
    """What a person is offered to be in a project; open until ``expires_at``."""

    invitation_id: str
    project_id: str
    project: str
    user_id: str
    username: str
    role: str
    purpose: str
    starts_at: str | None
    ends_at: str | None
    invited_by: str
    created_at: str
    expires_at: str


class Activity(TypedDict):
    """A line of a project's feed: who did what to whom; without an actor it happened by itself."""

    activity_id: str
    at: str
    deed: str
    actor_id: str | None
    actor: str | None
    subject_id: str | None
    subject: str | None
    details: dict[str, str]


class Certificate(TypedDict):
    """A project certificate; ``certificate_id`` is the serial in hex, ``chain`` PEM with the leaf first."""

    certificate_id: str
    project_id: str
    user_id: str
    not_before: str
    not_after: str
    live: bool
    chain: str
    fingerprint: str
    version: int


class Dataset(TypedDict):
    """A tree of files; ``shared`` is true where another project owns it. ``size`` in bytes."""

    dataset_id: str
    project_id: str
    name: str
    kind: str
    description: str
    files: int
    size: int
    origins: list[str]
    shared: bool
    version: int
    created_at: str


class File(TypedDict):
    """A file of a dataset; ``size`` in bytes, ``sha256`` in hex."""

    path: str
    size: int
    sha256: str
    version: int
    origins: list[str]
    created_at: str


class Share(TypedDict):
    """A dataset offered to another project."""

    share_id: str
    dataset_id: str
    dataset_name: str
    project_id: str
    target_project_id: str
    state: str
    version: int


class Job(TypedDict):
    """A program run over datasets; ``withheld``: its small results wait for its end, or for a new budget."""

    job_id: str
    run_id: str
    project_id: str
    name: str
    state: str
    submitted_by: str
    environment: str
    inputs: list[str]
    output_dataset_id: str
    metrics: dict[str, float]
    exit_code: int | None
    reason: str | None
    withheld: bool
    agent_id: str | None
    submitted_at: str
    started_at: str | None
    ended_at: str | None
    version: int


class JobLog(TypedDict):
    """The end of a run's log; ``budget_left`` in bytes."""

    text: str
    truncated: bool
    budget_left: int
    run_state: str


class Resources(TypedDict, total=False):
    """What a job may use at most: seconds of wall clock, MiB of memory, cores."""

    wall_seconds: int
    memory_mib: int
    cores: int


class Agent(TypedDict):
    """A node agent; ``token`` (for its enrolment, until ``enrol_before``) only in the answer that made it."""

    agent_id: str
    name: str
    enrolled: bool
    live: bool
    created_at: str
    version: int
    token: NotRequired[str]
    enrol_before: NotRequired[str]


class Hit(TypedDict):
    """Something found by its words."""

    kind: str
    id: str
    project_id: str
    name: str
    description: str
    score: float
    highlight: Any


class Chain(TypedDict):
    """What the ledger says of one source; ``head`` is the chain hash (hex) at ``last``, ``waiting`` what lies behind a gap."""

    source: str
    first: int
    last: int
    count: int
    head: str
    waiting: int
    gaps: list[Any]


class AuditRecord(TypedDict):
    """Who did what, on which resource, with which outcome; ``canonical`` is base64 of the bytes that are hashed."""

    record_id: str
    source: str
    number: int
    at: str
    request_id: str
    actor: dict[str, Any]
    action: str
    resource: dict[str, str]
    outcome: str
    reason: str
    project_id: str | None
    status: int | None
    address: str | None
    leaf_hash: str
    chain_hash: str | None
    canonical: str
