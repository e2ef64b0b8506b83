"""What people may read of a run."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from chassis.errors import Forbidden
from contracts.roles import Role
from services.jobs.domain.runs import ENDED
from services.jobs.models import Budget, Dataset, Log, Run, Shown

LOG_KEPT = 64 * 1024
BUDGET = 64 * 1024
KEPT_FOR_DETAILS = 4 * 1024


class LogBudgetUsedUp(Forbidden):
    """LOG_BUDGET_LEFT: the person's budget of small outputs in this project is used up for the day."""

    title = "Your budget of logs and small results in this project is used up for today"


def reads_freely(project_id: UUID, role: Role | None, inputs: Collection[UUID], datasets: Collection[Dataset]) -> bool:
    """Whether nothing in a run's small outputs is foreign to its reader: a Data Owner, and all origins in their own project."""
    if role is not Role.DATA_OWNER:
        return False
    homes = {dataset.dataset_id: dataset for dataset in datasets}
    origins = {origin for dataset_id in inputs if dataset_id in homes for origin in homes[dataset_id].origins} | set(inputs)
    return all(origin in homes and homes[origin].project_id == project_id for origin in origins)


@dataclass(frozen=True)
class Reading:
    """What may be shown of a log: bytes from ``start`` to ``end``, ``charged`` of them new to the reader."""

    start: int
    end: int
    charged: int


def read_log(log: Log, shown: Shown, budget: Budget | None) -> Reading:
    """Condition.LOG_BUDGET_LEFT: the newest bytes of a log that the budget allows, with what was shown before; the latter is free.

    A few KiB of each day's budget are kept for metrics and exit codes. Without ``budget`` there is no bound. Raises
    LogBudgetUsedUp when there is something new, nothing of it may be shown, and nothing was shown before.
    """
    first = log.until - len(log.kept)
    seen_from, seen_until = max(shown.log_from, first), max(shown.log_until, first)
    unseen = log.until - seen_until
    left = unseen if budget is None else max(0, BUDGET - KEPT_FOR_DETAILS - budget.used)
    if unseen <= left:
        reading = Reading(min(seen_until, seen_from), log.until, unseen)
    elif left > 0:
        reading = Reading(log.until - left, log.until, left)
    elif seen_from < seen_until:
        return Reading(seen_from, seen_until, 0)
    else:
        raise LogBudgetUsedUp
    shown.log_from, shown.log_until = reading.start, reading.end
    if budget is not None:
        budget.used += reading.charged
    return reading


def text_between(log: Log, start: int, end: int) -> str:
    """The log's text from ``start`` to ``end``; characters that a cut divided are left out."""
    first = log.until - len(log.kept)
    return log.kept[max(0, start - first) : max(0, end - first)].decode(errors="ignore")


def read_details(run: Run, shown: Shown, budget: Budget | None) -> bool:
    """Condition.LOG_BUDGET_LEFT: whether metrics, exit code and reason may be shown; what the reader has not seen is charged.

    With a budget they are shown once the run has ended: metrics that change while it runs would be charged at each look.
    """
    said = json.dumps([run.metrics, run.exit_code, run.reason], sort_keys=True).encode()
    if said == b"[{}, null, null]" or budget is None:
        return True
    if run.state not in ENDED:
        return False
    digest = hashlib.sha256(said).digest()
    if shown.details == digest:
        return True
    if budget.used + len(said) > BUDGET:
        return False
    budget.used += len(said)
    shown.details = digest
    return True


def append(log: Log, offset: int, text: str) -> int:
    """Add what the present lease wrote at ``offset`` of its own log; returns the next offset.

    A repeated part changes nothing; after a gap only what follows it is kept.
    """
    data = text.replace("\0", "\ufffd").encode(errors="replace")
    known = log.until - log.base
    if offset > known:
        log.kept = b""
        log.until = log.base + offset
    else:
        data = data[known - offset :]
    log.until += len(data)
    log.kept = (log.kept + data)[-LOG_KEPT:]
    return log.until - log.base


def begin_log(log: Log) -> None:
    """A new lease writes from the start; what an earlier one wrote is gone."""
    log.base = log.until
    log.kept = b""
