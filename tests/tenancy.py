"""Whether what members of a project are answered depends on what other projects hold.

A test lets hypothesis fill one project, asks every door that its members read (``Snapshot.of``: bodies, counts, order, cursors,
refusals), lets hypothesis fill other projects, and asks again: nothing may differ. What lies elsewhere must answer like what is
nowhere, also to whoever wants to change it (``like_nothing``; ``doors_hide`` for all doors of a service). Each service's
``test_tenancy.py`` names the doors that it asks in ``DOORS`` and ``CHANGES``; ``tests/architecture`` holds it to all of them.
"""

import json as jsons
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from contracts.policy import POLICY, Action, columns_of
from contracts.roles import Actor
from tests.world import World

SHOWN = ("etag", "hortus-reason", "hortus-facts", "content-type", "content-length", "retry-after")
PAGE = 2
OK = 200
NOWHERE = "01900000-0000-7000-8000-00000000dead"
NOTHING = (b"", b'{"items":[],"next":null}')
Elsewhere = UUID | str | tuple[UUID | str, ...]
Asks = Actor | Callable[[UUID], Actor]
"""Who asks, or how the gateway would name them in the project that they ask for."""


@dataclass(frozen=True)
class Snapshot:
    """What was answered, in order."""

    answers: tuple[Any, ...]

    @classmethod
    async def of(cls, world: World, asked: Iterable[tuple[str, Actor]]) -> "Snapshot":
        """Ask for each path; lists are read to their end, in pages so small that cursors are needed."""
        answers = []
        for path, actor in asked:
            after = ""
            while True:
                sign = "&" if "?" in path else "?"
                answer = await world.get(f"{path}{sign}limit={PAGE}{after}", actor)
                seen = {name: value for name, value in answer.headers.items() if name in SHOWN}
                answers.append((path, answer.status_code, seen, answer.content))
                body = answer.json() if answer.headers.get("content-type") == "application/json" else {}
                if not isinstance(body, dict) or not body.get("next"):
                    break
                after = f"&after={body['next']}"
        return cls(tuple(answers))

    def answered(self) -> set[Action]:
        """The doors that let somebody in and had something to say."""
        paths = {path for path, status, _, content in self.answers if status == OK and content not in NOTHING}
        return {action for action, rule in POLICY.items() if rule.method == "GET" and any(_matches(rule.path, path) for path in paths)}


async def like_nothing(
    world: World,
    actor: Asks,
    template: str,
    elsewhere: Iterable[Elsewhere],
    *,
    method: str = "GET",
    json: Any = None,
    status: int = 404,
    nowhere: str = NOWHERE,
) -> None:
    """What lies elsewhere is answered, byte for byte, like what is nowhere; ``template`` or ``json`` has a place ``{}`` for the id.

    So it is for changes (``method``, ``json``), which are refused like those of what is nowhere, and leave nothing. An answer may
    repeat the id that it was asked for. Several places take tuples.
    """
    await world.said()
    await _compare(world, actor, template, elsewhere, method, json, status, nowhere)
    assert await world.said() == []


async def _compare(
    world: World, actor: Asks, template: str, elsewhere: Iterable[Elsewhere], method: str, json: Any, status: int, nowhere: str
) -> None:
    async def answer(ids: tuple[UUID | str, ...]) -> tuple[int, bytes, Any]:
        body = jsons.loads(jsons.dumps(json).replace('"{}"', f'"{ids[0]}"'))
        asks = actor if isinstance(actor, Actor) else actor(UUID(str(ids[0])))
        given = await world.request(method, template.format(*ids), asks, json=body, version=1 if method == "PATCH" else None)
        content = given.content
        for each in ids:
            content = content.replace(str(each).encode(), b"{}")
        return given.status_code, content, given.headers

    expected = await answer((nowhere,) * max(1, template.count("{}")))
    assert expected[0] == status, (method, template, expected)
    for each in elsewhere:
        assert await answer(each if isinstance(each, tuple) else (each,)) == expected, (method, template, each)


async def doors_hide(
    world: World,
    stranger: Actor,
    members: Sequence[Actor],
    doors: Mapping[Action, Any],
    ours: Mapping[str, UUID | str],
    theirs: Sequence[Mapping[str, UUID | str]],
    nowhere: str = NOWHERE,
) -> None:
    """At each of the doors, with the body that it takes, what is theirs is answered like nothing.

    ``ours`` and ``theirs`` say what stands in the places of a door's path. Their project is named by a stranger; our members
    name what lies in it inside our project, and from each later place of the path on.
    """
    assert theirs
    await world.said()
    for action, body in doors.items():
        rule = POLICY[action]
        places = re.findall(r"\{(\w+)\}", rule.path)
        for index in range(len(places)):
            template = _filled(rule.path, {place: ours[place] for place in (*places[:index], "path") if place in ours})
            elsewhere = dict.fromkeys(tuple(each[place] for place in places[index:]) for each in theirs)
            for actor in [each for each in members if columns_of(each) & rule.who] if index else [stranger]:
                await _compare(world, actor, template, elsewhere, rule.method, body, 404, nowhere)
    assert await world.said() == []


def door(method: str, path: str) -> Action:
    """The door at a path, in which anything stands for an id; the one that says most of it literally."""
    found = [action for action, rule in POLICY.items() if rule.method == method and _matches(rule.path, path)]
    return min(found, key=lambda action: POLICY[action].path.count("{"))


def _filled(template: str, ids: Mapping[str, UUID | str]) -> str:
    """A path with what is known of it; ``{}`` stands for the rest."""
    return re.sub(r"\{(\w+)(:path)?\}", lambda found: str(ids.get(found[1], "{}")), template)


def _matches(template: str, path: str) -> bool:
    any_path = re.sub(r"\\\{\w+:path\\\}", ".+", re.escape(template))
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", any_path), path) is not None
