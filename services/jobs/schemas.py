"""Request and answer shapes of jobs."""

import unicodedata
from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from contracts.events import RunState
from contracts.policy import LONGEST_RUN_S

PROGRAM_LONGEST = 64 * 1024
LOG_PART_LONGEST = 64 * 1024
METRICS_MOST = 100


def _storable(value: str) -> str:
    """Text that a database and a command line can hold. Raises ValueError."""
    if "\0" in value:
        raise ValueError("contains a NUL")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError("contains half a character") from error
    return value


def _program(value: str) -> str:
    if not 1 <= len(_storable(value).encode()) <= PROGRAM_LONGEST:
        raise ValueError(f"has more than {PROGRAM_LONGEST} bytes")
    return value


def _name(value: str) -> str:
    name = unicodedata.normalize("NFC", _storable(value)).strip()
    if not name or not name.isprintable():
        raise ValueError("has characters that cannot be shown, or none at all")
    return name


def _unlike(value: list[UUID]) -> list[UUID]:
    if len(set(value)) != len(value):
        raise ValueError("names a dataset twice")
    return value


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_name)]
Program = Annotated[str, Field(min_length=1, max_length=PROGRAM_LONGEST), AfterValidator(_program)]
Argument = Annotated[str, Field(max_length=1000), AfterValidator(_storable)]
Csr = Annotated[str, Field(min_length=1, max_length=8192), AfterValidator(_storable)]
Sentence = Annotated[str, Field(max_length=500), AfterValidator(_storable)]
MetricName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,63}$")]
MetricValue = Annotated[float, Field(allow_inf_nan=False)]


def _reportable(value: RunState) -> RunState:
    if value in (RunState.QUEUED, RunState.LEASED):
        raise ValueError("is no state that an agent reports")
    return value


class Request(BaseModel):
    """Requests take no field that they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(Request):
    """What a run may use at most."""

    wall_seconds: Annotated[int, Field(ge=1, le=LONGEST_RUN_S)] = 3600
    memory_mib: Annotated[int, Field(ge=64, le=1024 * 1024)] = 2048
    cores: Annotated[int, Field(ge=1, le=256)] = 1


class NewJob(Request):
    """A program to run over datasets of the project."""

    name: Name
    program: Program
    environment: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,31}$")] = "python"
    inputs: Annotated[list[UUID], Field(max_length=16), AfterValidator(_unlike)] = []
    arguments: Annotated[list[Argument], Field(max_length=32)] = []
    resources: Resources = Resources()


class NewAgent(Request):
    """An agent to announce."""

    name: Name


class Enrolment(Request):
    """An agent's first words."""

    token: Annotated[str, Field(min_length=16, max_length=200), AfterValidator(_storable)]
    csr: Csr


class LeaseRequest(Request):
    """An agent is free; ``csr`` is of the key it made for the run that it will get."""

    csr: Csr


class Renewal(Request):
    """An agent still holds a lease."""

    fencing_token: Annotated[int, Field(ge=1, le=2**62)]


class LogPart(Request):
    """What a program wrote, from ``offset`` on (bytes of UTF-8 since this lease began)."""

    fencing_token: Annotated[int, Field(ge=1, le=2**62)]
    offset: Annotated[int, Field(ge=0, le=2**62)]
    text: Annotated[str, Field(max_length=LOG_PART_LONGEST)]


class Report(Request):
    """How a run stands."""

    fencing_token: Annotated[int, Field(ge=1, le=2**62)]
    state: Annotated[RunState, AfterValidator(_reportable)]
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    reason: Sentence | None = None
    metrics: Annotated[dict[MetricName, MetricValue], Field(max_length=METRICS_MOST)] = {}


class JobView(BaseModel):
    """A job. ``withheld``: metrics, exit code or reason exist and are not in this answer.

    They are for readers with a budget once the run has ended, and while the budget lasts.
    """

    model_config = ConfigDict(from_attributes=True)

    job_id: UUID
    run_id: UUID
    project_id: UUID
    name: str
    state: RunState
    submitted_by: UUID
    environment: str
    inputs: list[UUID]
    output_dataset_id: UUID
    metrics: dict[str, float]
    exit_code: int | None
    reason: str | None
    withheld: bool
    agent_id: UUID | None
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    version: int


class LogView(BaseModel):
    """The end of a run's log; ``truncated`` when something before it, or of it, is not shown. ``budget_left`` in bytes."""

    text: str
    truncated: bool
    budget_left: int
    run_state: RunState


class AgentView(BaseModel):
    """An agent."""

    model_config = ConfigDict(from_attributes=True)

    agent_id: UUID
    name: str
    enrolled: bool
    live: bool
    created_at: datetime
    version: int


class AnnouncedAgent(AgentView):
    """A new agent with its enrolment token, shown this once; a token that nobody uses ends at ``enrol_before``."""

    token: str
    enrol_before: datetime


class EnrolmentView(BaseModel):
    """``waiting`` until the certificate is there; ``chain`` is PEM, leaf first."""

    agent_id: UUID
    state: str
    chain: str | None = None


class LeaseInput(BaseModel):
    """An input: its id and the name of its folder inside the job."""

    dataset_id: UUID
    name: str


class LeaseResources(BaseModel):
    """What a run may use at most."""

    wall_seconds: int
    memory_mib: int
    cores: int


class LeaseView(BaseModel):
    """All that an agent needs. The lease lasts ``lease_seconds`` from the renewal that this answers; ``certificate`` is PEM."""

    run_id: UUID
    job_id: UUID
    project_id: UUID
    fencing_token: int
    state: RunState
    cancelled: bool
    program: str
    environment: str
    arguments: list[str]
    inputs: list[LeaseInput]
    resources: LeaseResources
    certificate: str | None
    renew_before: datetime | None
    lease_seconds: float
    version: int


class LogOffset(BaseModel):
    """Where the next part of the log goes."""

    offset: int
