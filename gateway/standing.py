"""What follows from a credential at this moment: an actor, how long it holds, and the facts that it rests on."""

import json
import math
from dataclasses import dataclass, field

from chassis.guard import write_identity
from chassis.outbox import who_acts
from contracts.events import Fact, Membership
from contracts.policy import Action, Decision, Reason, decide
from contracts.roles import NOBODY, Actor

FOREVER = math.inf


@dataclass(eq=False)
class Standing:
    """An actor and what follows from it.

    ``until``: when this stops being true by the clock alone (Unix seconds); ``principal``: the person or agent whose facts
    decide about it; ``header``: the identity header's value; ``record``: the actor as an audit record names it, canonical
    JSON; ``subject``: the session or API key that is used, as the topic ``activity`` names it.
    """

    actor: Actor
    until: float
    basis: tuple[tuple[dict[str, Fact], str, Fact | None], ...]
    stamp: int
    principal: str = ""
    header: bytes = b""
    record: str = ""
    subject: str | None = None
    decisions: dict[Action, Decision] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Render the actor once."""
        actor = self.actor
        self.principal = str(actor.user_id or actor.agent_id or "")
        self.header = write_identity(actor).encode()
        self.record = json.dumps(who_acts(actor), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if actor.session_id is not None:
            self.subject = f"session:{actor.session_id}"
        elif actor.key_id is not None:
            self.subject = f"key:{actor.key_id}"

    def decide(self, action: Action) -> Decision:
        """The policy's answer; pure, so it is asked once for each action."""
        known = self.decisions.get(action)
        if known is None:
            known = self.decisions[action] = decide(self.actor, action)
        return known

    def holds(self, later: "Standing", action: Action) -> bool:
        """Whether an action begun under this standing may go on under a later one of the same credential: no right was lost.

        A second factor that has grown old since takes nothing away: it was fresh when the action began.
        """
        old, new = self.actor, later.actor
        decision = later.decide(action)
        return (
            (decision.allowed or decision.reason is Reason.FACTOR_TOO_OLD)
            and old.role == new.role
            and old.fencing_token == new.fencing_token
            and old.cluster_roles <= new.cluster_roles
            and all(new.projects.get(project) == role for project, role in old.projects.items())
        )


NOBODY_STANDING = Standing(NOBODY, FOREVER, (), 0)


class Search:
    """One working-out: what was looked at, and until when its result holds by the clock."""

    def __init__(self, now: float) -> None:
        self.now = now
        self.until = FOREVER
        self.basis: list[tuple[dict[str, Fact], str, Fact | None]] = []
        self.versions: dict[str, int] = {}

    def look(self, facts: dict[str, Fact], topic: str, key: str) -> Fact | None:
        """Look a fact up that the services hear of, too, and remember that the result rests on it, or on there being none."""
        fact = self.rests_on(facts, key)
        if fact is not None:
            self.versions[f"{topic}:{key}"] = fact.version
        return fact

    def rests_on(self, facts: dict[str, Fact], key: str) -> Fact | None:
        """Look a fact up that the gateway alone decides by."""
        fact = facts.get(key)
        self.basis.append((facts, key, fact))
        return fact

    def ends(self, instant: float) -> None:
        """The result holds until ``instant`` at most."""
        self.until = min(self.until, instant)

    def counts(self, membership: Membership) -> bool:
        """Whether a membership gives a role now; its next beginning or end bounds the result."""
        if membership.role is None:
            return False
        begins = membership.starts_at.timestamp()
        if self.now < begins:
            self.ends(begins)
            return False
        if membership.ends_at is None:
            return True
        ends = membership.ends_at.timestamp()
        if ends <= self.now:
            return False
        self.ends(ends)
        return True

    def standing(self, actor: Actor, stamp: int = -1) -> Standing:
        """What was found; ``stamp`` counts the changes of the person's memberships when all of them matter, else -1."""
        return Standing(actor, self.until, tuple(self.basis), stamp)
