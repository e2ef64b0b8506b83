"""Decisions a second and their p99 with 100,000 memberships known, beside Cedar, and how long a gateway takes to know them all.

``python -m bench.policy [--runs 5] [--decisions 100000] [--no-start]`` fills a projection with 20,000 people who have a session and five memberships
each, in 2,000 projects, as a gateway has them after reading the topics, and asks it for random people, projects and actions: a fifth of
the questions are about projects that the person is no member of. Each question is timed by itself on one core; the timer's own cost is in it.

- ``decide``: the policy table alone, for an actor who is known.
- ``known``: looking the caller up and deciding, for a credential and a project that were asked before; every fact that the standing
  rests on is compared again. That is what a request costs, and the headline, ``decide_p99_us``.
- ``new``: the first question about a credential and a project, as after every change of either: everything is worked out. The signature of a
  token is not in it (`bench.auth` has that).
- ``cedar``: the same questions by cedarpy with the policies read once, the caller in the question's context, in batches: Cedar looks nobody up.

The start is that of ``python -m gateway`` on a real broker: from the start of the process to the first answer to a signed-in member, with one
membership on the topic and with 100,000.
"""

import argparse
import asyncio
import gc
import importlib.metadata
import json
import os
import random
import shutil
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import cedarpy
import uvloop
from uuid_utils.compat import uuid7

from bench.gateway import REPOSITORY, WRITERS, Site, cores, install, running, tell, until_served
from chassis import patience
from chassis.projection import Projection
from chassis.settings import ProcessSettings
from compose.local.kafka import Kafka
from compose.local.pki import Pki
from compose.local.ports import free_port
from contracts.events import TOPICS as CATALOGUE
from contracts.events import Fact, Membership, Session, User, UserStatus
from contracts.policy import POLICY, Action, decide
from contracts.roles import Actor, Role
from gateway.authenticate import Credential
from gateway.authority import TOPICS, Authority

RESULTS = REPOSITORY / "bench" / "results" / "policy.json"
CEDAR = REPOSITORY / "tests" / "contracts" / "policy.cedar"
PEOPLE = 20_000
EACH = 5
PROJECTS = 2_000
BATCH = 10_000
PATIENCE_S = 240.0
IN_PROJECTS = [action for action, rule in POLICY.items() if "{project_id}" in rule.path]
ELSEWHERE = [action for action, rule in POLICY.items() if "{project_id}" not in rule.path]


def person(number: int, projects: list[UUID], now: datetime) -> list[Fact]:
    """Somebody with a session and their memberships."""
    user, name = uuid7(), f"u{number:07d}"
    later = now + timedelta(hours=8)
    session = Session(version=1, session_id=uuid7(), user_id=user, live=True, factor_at=now, expires_at=later)
    return [
        User(version=1, user_id=user, username=name, status=UserStatus.ACTIVE, cluster_roles=frozenset()),
        session,
        *[
            Membership(
                version=1,
                project_id=projects[(number * EACH + place) % len(projects)],
                user_id=user,
                username=name,
                role=Role.DATA_OWNER if place == 0 else Role.DATA_SCIENTIST,
                purpose="bench",
                starts_at=now - timedelta(hours=1),
                ends_at=later,
            )
            for place in range(EACH)
        ],
    ]


Question = tuple[Credential, str | None, Action]


def questions(facts: list[Fact], projects: list[UUID], count: int, chance: random.Random) -> list[Question]:
    """Random people about random doors: of a project of theirs, of somebody else's, or of none."""
    people: dict[UUID, tuple[Credential, list[UUID]]] = {}
    for fact in facts:
        if isinstance(fact, Session):
            shown = Credential(user_id=str(fact.user_id), session_id=str(fact.session_id), since=time.time())
            people[fact.user_id] = (shown, [])
        elif isinstance(fact, Membership):
            people[fact.user_id][1].append(fact.project_id)
    everybody = list(people.values())
    made: list[Question] = []
    for _ in range(count):
        credential, own = chance.choice(everybody)
        kind = chance.random()
        if kind < 0.2:
            made.append((credential, None, chance.choice(ELSEWHERE)))
        else:
            made.append((credential, str(chance.choice(own if kind < 0.8 else projects)), chance.choice(IN_PROJECTS)))
    return made


def timed(ask: Callable[[Any], object], asked: list[Any]) -> dict[str, float]:
    """Each question by itself: how many a second, and microseconds."""
    clock = time.perf_counter_ns
    times = []
    gc.collect()
    began = time.perf_counter()
    for one in asked:
        start = clock()
        ask(one)
        times.append(clock() - start)
    wall = time.perf_counter() - began
    times.sort()
    return {
        "per_s": len(asked) / wall,
        "p50_us": times[len(times) // 2] / 1000,
        "p99_us": times[len(times) * 99 // 100] / 1000,
        "max_us": times[-1] / 1000,
    }


def cedar(asked: list[tuple[Actor, Action]], policies: Any) -> dict[str, float]:
    """Cedar's answers to the same questions, which have to be the same; microseconds are those of a batch, for each of its questions."""
    told = [
        {
            "principal": 'Person::"x"',
            "action": f'Action::"{action.value}"',
            "resource": 'Door::"x"',
            "context": json.dumps(
                {"session": actor.session_id is not None, "fresh": actor.factor_fresh, "cluster": [], "action": action.value}
                | ({"role": actor.role.value} if actor.role else {})
            ),
        }
        for actor, action in asked
    ]
    each = []
    began = time.perf_counter()
    for first in range(0, len(told), BATCH):
        start = time.perf_counter()
        answers = cedarpy.is_authorized_batch(told[first : first + BATCH], policies, [])
        each.append((time.perf_counter() - start) / len(answers))
        if [answer.allowed for answer in answers] != [decide(*one).allowed for one in asked[first : first + BATCH]]:
            raise RuntimeError("Cedar decides otherwise")
    return {"per_s": len(told) / (time.perf_counter() - began), "mean_us": 1e6 * statistics.mean(each)}


def decisions(runs: int, count: int) -> list[dict[str, Any]]:
    """All of it, as often as there are runs."""
    now = datetime.now(UTC)
    projects = [uuid7() for _ in range(PROJECTS)]
    facts = [fact for number in range(PEOPLE) for fact in person(number, projects, now)]
    projection = Projection(ProcessSettings(service="gateway", tls_dir=Path(), kafka="localhost:1", state_dir=Path()), TOPICS)
    authority = Authority(projection)
    began = time.perf_counter()
    for fact in facts:
        old = projection.knowledge.apply(fact)
        for listener in projection.listeners:
            listener(old, fact)
    applied = time.perf_counter() - began
    patience.collect_less()
    policies = cedarpy.PolicySet.from_str(CEDAR.read_text())

    def ask(one: Question) -> object:
        credential, project, action = one
        return decide(authority.standing(credential, project, time.time()).actor, action)

    results: list[dict[str, Any]] = []
    for number in range(runs):
        asked = questions(facts, projects, count, random.Random(number))  # noqa: S311 - no secret
        new = timed(ask, asked)
        known = timed(ask, asked)
        actors = [(authority.standing(credential, project, time.time()).actor, action) for credential, project, action in asked]
        alone = timed(lambda one: decide(*one), actors)
        results.append({"run": number, "applied_s": applied, "new": new, "known": known, "decide": alone, "cedar": cedar(actors, policies)})
        for name in ("new", "known", "decide", "cedar"):
            print(f"run {number + 1}  {name:8}", "  ".join(f"{key} {value:,.2f}" for key, value in results[-1][name].items()), flush=True)
    return results


class Crowd(Site):
    """A site with so many people beside the one who asks."""

    def crowd(self) -> list[Fact]:
        """Their facts."""
        projects = [uuid7() for _ in range(PROJECTS)]
        now = datetime.now(UTC)
        return [fact for number in range(PEOPLE) for fact in person(number, projects, now)]


async def start_once(site: Crowd, core: int) -> float:
    """Seconds from the start of a gateway to its first answer to a signed-in member."""
    port = free_port()
    environment = site.environment(port)
    request = f"GET {site.path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {site.token()}\r\n\r\n".encode()
    context = ssl.create_default_context(cafile=str(site.pki.root))
    with (site.folder / "gateway.log").open("ab") as log:
        began = time.monotonic()
        with running(core, sys.executable, "-m", "gateway", cwd=REPOSITORY, env=environment, stderr=log):
            await until_served(port, request, context, PATIENCE_S)
            return time.monotonic() - began


async def starts(runs: int, folder: Path) -> dict[str, list[float]]:
    """Starts with one membership on the topic, then with 100,000."""
    first, rest = cores()
    os.sched_setaffinity(0, {rest})
    pki = Pki.create(folder / "home")
    for name in ("gateway", "runner", *WRITERS):
        pki.issue_service_certificate(name, pki.home.tls_folder(name))
    kafka = Kafka(pki.home, pki)
    took: dict[str, list[float]] = {}
    try:
        await asyncio.to_thread(kafka.start)
        kafka.apply_catalogue(CATALOGUE)
        site = Crowd(folder, pki, kafka)
        with running(rest, "nginx", "-c", str(site.service())):
            for name, facts in (("one", site.facts()), ("100,000", site.facts() + site.crowd())):
                telling = [asyncio.create_task(tell(site, each, [fact for fact in facts if fact.topic.owner == each])) for each in WRITERS]
                await start_once(site, first)
                took[name] = [await start_once(site, first) for _ in range(runs)]
                print(f"start with {name}:", " ".join(f"{seconds:.2f}" for seconds in took[name]), "s", flush=True)
                for task in telling:
                    task.cancel()
                await asyncio.gather(*telling, return_exceptions=True)
    finally:
        await asyncio.to_thread(kafka.stop)
    return took


def headline(raw: list[dict[str, Any]], took: dict[str, list[float]]) -> dict[str, float]:
    """The figures in one line: medians over the runs."""

    def middle(kind: str, key: str) -> float:
        return float(statistics.median(run[kind][key] for run in raw))

    figures = {
        "decide_p99_us": round(middle("known", "p99_us"), 2),
        "decide_p50_us": round(middle("known", "p50_us"), 2),
        "decisions_per_s": round(middle("known", "per_s")),
        "new_p99_us": round(middle("new", "p99_us"), 2),
        "new_per_s": round(middle("new", "per_s")),
        "table_p99_us": round(middle("decide", "p99_us"), 2),
        "table_per_s": round(middle("decide", "per_s")),
        "cedar_per_s": round(middle("cedar", "per_s")),
    }
    if took:
        figures["start_s"] = round(statistics.median(took["100,000"]), 2)
        figures["start_with_one_s"] = round(statistics.median(took["one"]), 2)
    return figures


def main() -> None:
    """Read the command line, measure, write the results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.policy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--decisions", type=int, default=100_000, help="in each run")
    parser.add_argument("--no-start", action="store_true", help="leave the gateway's start out")
    arguments = parser.parse_args()
    everywhere = os.sched_getaffinity(0)
    took: dict[str, list[float]] = {}
    if not arguments.no_start:
        if shutil.which("nginx") is None:
            install()
        with tempfile.TemporaryDirectory(prefix="hortus-bench-") as folder:
            Path(folder).chmod(0o755)
            took = uvloop.run(starts(arguments.runs, Path(folder)))
    os.sched_setaffinity(0, {min(everywhere)})
    raw = decisions(arguments.runs, arguments.decisions)
    result = headline(raw, took)
    setting = {
        "people": PEOPLE,
        "memberships": PEOPLE * EACH,
        "projects": PROJECTS,
        "questions": arguments.decisions,
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "cedarpy": importlib.metadata.version("cedarpy"),
        "load_average_at_the_end": os.getloadavg(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"result": result, "setting": setting, "starts_s": took, "runs": raw}, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name:24}{value:>14,}")
    print("RESULT " + json.dumps(result))


if __name__ == "__main__":
    main()
