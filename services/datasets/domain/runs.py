"""When a run may read and stage, and how much."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from chassis.errors import Forbidden, NotFound, TooLarge
from contracts.events import ProjectState, RunState, UserStatus
from contracts.roles import counts
from services.datasets.models import Dataset, KnownRun, Run

LIVE = frozenset({RunState.LEASED, RunState.RUNNING})
ENDED = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})


class RunIsNotLive(Forbidden):
    """The run has ended, is held under a newer lease, or its person may no longer work in the project."""

    title = "The run does not hold this lease any more"


class InputIsNotReadable(Forbidden):
    """The input is no longer shared into the run's project."""

    title = "The input is not shared into the run's project any more"


class StagingIsFull(TooLarge):
    """A run's outputs have a bound."""

    title = "The outputs of the run are larger than a run may leave"


class Verdict(StrEnum):
    """Whether a run may read or stage now. Not yet known is not no."""

    YES = "yes"
    NOT_YET_KNOWN = "not yet known"
    NOT_LIVE = "not live"
    NO_INPUT = "no input"
    NOT_READABLE = "not readable"


def run_is_live(known: KnownRun, fencing_token: int, now: datetime) -> Verdict:
    """Condition.RUN_IS_LIVE, its first half: the run is leased with this token and its person works in its project, which is active."""
    run, person, member = known.run, known.person, known.member
    if run is None or run.fencing_token < fencing_token:
        return Verdict.NOT_YET_KNOWN
    if run.fencing_token > fencing_token or run.state in ENDED:
        return Verdict.NOT_LIVE
    if run.state not in LIVE or person is None or member is None or known.project is None:
        return Verdict.NOT_YET_KNOWN
    if known.project.state != ProjectState.ACTIVE:
        return Verdict.NOT_LIVE
    if person.status != UserStatus.ACTIVE or not counts(member.role, member.starts_at, member.ends_at, now):
        return Verdict.NOT_LIVE
    return Verdict.YES


def run_may_read(run: Run, dataset: Dataset | None, dataset_id: UUID, *, shared_in: bool) -> Verdict:
    """Condition.RUN_IS_LIVE, its second half: the dataset is an input and readable from the run's project now."""
    if dataset_id not in run.inputs:
        return Verdict.NO_INPUT
    if dataset is None or (dataset.project_id != run.project_id and not shared_in):
        return Verdict.NOT_READABLE
    return Verdict.YES


def enforce(verdict: Verdict) -> None:
    """Turn a verdict that is not yes into its refusal."""
    if verdict in (Verdict.NOT_YET_KNOWN, Verdict.NO_INPUT):
        raise NotFound
    if verdict is Verdict.NOT_LIVE:
        raise RunIsNotLive
    if verdict is Verdict.NOT_READABLE:
        raise InputIsNotReadable


@dataclass(frozen=True)
class Room:
    """How much a run may still stage: bytes, and whether one more file."""

    left: int

    def take(self, size: int) -> None:
        """Refuse more bytes than are left. Raises StagingIsFull."""
        if size > self.left:
            raise StagingIsFull


def staging_room(staged_bytes: int, staged_files: int, max_bytes: int, max_files: int) -> Room:
    """The room left for a run's outputs. Raises StagingIsFull when it has as many files as a run may leave."""
    if staged_files >= max_files:
        raise StagingIsFull(f"A run leaves at most {max_files} files.")
    return Room(max_bytes - staged_bytes)
