"""What was seen of a surface, and what that says about a deed: plain data and rules, in monotonic seconds."""

import math
from dataclasses import dataclass, field
from enum import Enum

REVOKED_SECONDS = 1.0
LEAST_QUESTIONS = 20
NEWEST_SECONDS = 1.0


class Verdict(Enum):
    """What an answer says."""

    LET_IN = "let in"
    REFUSED = "refused"
    CANNOT_DECIDE = "cannot decide"


@dataclass(frozen=True)
class Answer:
    """When a question was sent and its answer complete, what it says, and its words."""

    sent: float
    at: float
    verdict: Verdict
    words: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a surface showed after a deed: seconds until it let in for the last time (0: never again) and until it first refused.

    ``stale``: how many questions that were sent more than a second afterwards were let in. ``rate`` is how many questions were
    sent in the second second, ``undecided`` how many answers since the deed were "cannot decide now".
    """

    name: str
    let_in: float
    refused: float
    rate: int = 0
    words: str = ""
    undecided: int = 0
    stale: int = 0

    @property
    def lasted(self) -> float:
        """Seconds until it was over: it has refused, and has let in for the last time."""
        return max(self.let_in, self.refused)


@dataclass
class Asked:
    """The answers of one surface, in the order in which they came."""

    name: str
    answers: list[Answer] = field(default_factory=list)

    def outcome(self, moment: float) -> Outcome:
        """What was seen, with ``moment`` as the deed."""
        after = [answer for answer in self.answers if answer.at >= moment]
        never = Answer(math.inf, math.inf, Verdict.REFUSED, "never")
        refused = next((answer for answer in after if answer.verdict is Verdict.REFUSED), never)
        let_in = [answer for answer in after if answer.verdict is Verdict.LET_IN]
        return Outcome(
            self.name,
            max((answer.at for answer in let_in), default=moment) - moment,
            refused.at - moment,
            sum(1 for answer in after if REVOKED_SECONDS < answer.sent - moment <= 2 * REVOKED_SECONDS),
            refused.words,
            sum(1 for answer in after if answer.verdict is Verdict.CANNOT_DECIDE),
            sum(1 for answer in let_in if answer.sent > moment + REVOKED_SECONDS),
        )

    def breaks(self, moment: float) -> bool:
        """Whether it shows what must not be, however well it was watched: somebody let in or refused too late, or nobody refused.

        Slow answers make it be asked less often, too; so a slow one must count, or only quick ones would.
        """
        outcome = self.outcome(moment)
        return outcome.stale > 0 or outcome.lasted > REVOKED_SECONDS

    def flaw(self, sent: float, moment: float) -> str:
        """Why this says nothing about a deed sent at ``sent`` that counts from ``moment``; empty where it does."""
        newest = max((answer for answer in self.answers if answer.at <= sent), key=lambda answer: answer.at, default=None)
        if newest is None or newest.verdict is not Verdict.LET_IN:
            return f"let nobody in when the deed fell ({newest.words if newest else 'no answer yet'})"
        if sent - newest.at > NEWEST_SECONDS:
            return f"had not answered for {sent - newest.at:.1f} s when the deed fell"
        rate = self.outcome(moment).rate
        return f"was asked {rate} times in the second second" if rate < LEAST_QUESTIONS else ""


@dataclass
class Flow:
    """One long transfer: when it flowed, when it ended by itself (0: not yet), whether it was cut then, and why."""

    name: str
    moved: int = 0
    flowed_at: float = 0.0
    ended_at: float = 0.0
    cut: bool = False
    why: str = ""

    def outcome(self, moment: float) -> Outcome:
        """What became of it, with ``moment`` as the deed."""
        if not (self.ended_at and self.cut):
            return Outcome(self.name, math.inf, math.inf, words=self.why or "never cut", stale=1)
        after = max(self.ended_at - moment, 0.0)
        return Outcome(self.name, after, after, words=self.why, stale=int(after > REVOKED_SECONDS))

    def breaks(self, moment: float) -> bool:
        """Whether it shows what must not be: it was never cut, or too late."""
        return not self.ended_at or (self.cut and self.ended_at > moment + REVOKED_SECONDS)

    def flaw(self, sent: float, moment: float) -> str:  # noqa: ARG002 - as that of what is asked
        """Why this says nothing about a deed sent at ``sent``; empty where it does."""
        if not 0 < self.flowed_at <= sent:
            return "did not flow when the deed fell"
        if 0 < self.ended_at <= sent:
            return f"ended before the deed ({self.why})"
        return f"ended by itself ({self.why})" if self.ended_at and not self.cut else ""


Seen = Asked | Flow
