"""Another implementation decides the same: the policy in Cedar, written by hand, asked 100,000 times at random.

Cedar (cedarpolicy.com, cedarpy) knows nothing of ``contracts/policy.py``; ``policy.cedar`` repeats its promises in another language.
A row that is added, loosened or tightened in one of the two is a difference here.
"""

import os
import random
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import UUID

import cedarpy
import pytest

from contracts.policy import POLICY, Action, decide, scopes
from contracts.roles import Actor, ClusterRole, Principal, Role

REQUESTS = 100_000
BATCH = 10_000
FEW = 500
SEED = 20261125
CEDAR = Path(__file__).with_name("policy.cedar").read_text()
TYPES = {
    Principal.NOBODY: "Nobody",
    Principal.PERSON: "Person",
    Principal.AGENT: "Agent",
    Principal.JOB: "Job",
    Principal.SERVICE: "Service",
}
ACTIONS = list(Action)
SCOPES = sorted(scopes())
EVERYTHING = sorted(action.value for action in Action)


def somebody(chance: random.Random) -> Actor:
    """Any caller that can be written down, also such as the gateway never makes: a job in a session, a key with scopes that none can have."""
    scoped = chance.random() < 0.3
    return Actor(
        principal=chance.choice([Principal.PERSON] * 5 + list(Principal)),
        session_id=chance.choice([None, UUID(int=1)]),
        scopes=frozenset(chance.sample(chance.choice([SCOPES, EVERYTHING]), chance.randint(0, len(SCOPES)))) if scoped else None,
        cluster_roles=frozenset(role for role in ClusterRole if chance.random() < 0.4),
        role=chance.choice([None, *Role]),
        projects={UUID(int=2): chance.choice(list(Role))} if chance.random() < 0.2 else {},
        factor_fresh=chance.choice([True, False]),
    )


def asked(actor: Actor, action: Action) -> dict[str, Any]:
    """The same question in Cedar's words."""
    context: dict[str, Any] = {
        "session": actor.session_id is not None,
        "fresh": actor.factor_fresh,
        "cluster": sorted(actor.cluster_roles),
        "action": action.value,
    }
    if actor.role is not None:
        context["role"] = actor.role.value
    if actor.scopes is not None:
        context["scopes"] = sorted(actor.scopes)
    return {
        "principal": {"type": TYPES[actor.principal], "id": "x"},
        "action": {"type": "Action", "id": action.value},
        "resource": {"type": "Door", "id": "x"},
        "context": context,
    }


def both_asked(number: int) -> tuple[Counter[tuple[Action, bool]], list[str]]:
    """One batch of requests: which were decided how, and those that the two decide otherwise. Raises ValueError where Cedar cannot decide."""
    chance = random.Random(SEED + number)  # noqa: S311 - no secret
    requests = [(somebody(chance), chance.choice(ACTIONS)) for _ in range(BATCH)]
    seen: Counter[tuple[Action, bool]] = Counter()
    different = []
    answers = cedarpy.is_authorized_batch([asked(*request) for request in requests], cedarpy.PolicySet.from_str(CEDAR), [])
    for (actor, action), answer in zip(requests, answers, strict=True):
        if answer.diagnostics.errors:
            raise ValueError(f"{action}, {actor}: {answer.diagnostics.errors}")
        if decide(actor, action).allowed is not answer.allowed:
            different.append(f"{action}, {actor}: {answer.diagnostics.reasons}")
        seen[action, answer.allowed] += 1
    return seen, different


def test_cedar_and_the_policy_decide_the_same_of_100000_random_requests() -> None:
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        batches = list(pool.map(both_asked, range(REQUESTS // BATCH)))
    seen = sum((decided for decided, _ in batches), Counter[tuple[Action, bool]]())
    assert [request for _, different in batches for request in different] == []
    assert seen.total() == REQUESTS
    assert {action for action in Action if not seen[action, True]} == set()
    always = {action for action, rule in POLICY.items() if "nobody" in rule.who}
    assert {action for action in Action if not seen[action, False]} == always


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ('Action::"file.download", ', ""),
        ("context.session && context.fresh && context.cluster", "context.session && context.cluster"),
        ('&& context.role == "data_owner"', ""),
    ],
    ids=["a row that is missing", "a second factor that is not asked for", "a role that is not asked for"],
)
def test_a_difference_between_the_two_is_found(was: str, becomes: str) -> None:
    assert was in CEDAR
    chance = random.Random(SEED)  # noqa: S311 - no secret
    policies = cedarpy.PolicySet.from_str(CEDAR.replace(was, becomes))

    def one_differs(_: int) -> bool:
        requests = [(somebody(chance), chance.choice(ACTIONS)) for _ in range(FEW)]
        answers = cedarpy.is_authorized_batch([asked(*request) for request in requests], policies, [])
        return any(decide(*request).allowed is not answer.allowed for request, answer in zip(requests, answers, strict=True))

    assert any(map(one_differs, range(BATCH // FEW)))
