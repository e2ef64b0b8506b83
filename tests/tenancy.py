"""Whether what members of a project are answered depends on what other projects hold.

A test lets hypothesis fill one project, asks every door that its members read (``Snapshot.of``: bodies, counts, order, cursors,
refusals), lets hypothesis fill other projects, and asks again: nothing may differ. What lies elsewhere must answer like what is
nowhere, also to whoever wants to change it (``like_nothing``). Each service's ``test_tenancy.py`` names the doors that it asks in ``DOORS``; ``tests/architecture`` holds it to all of them.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from contracts.policy import POLICY, Action
from contracts.roles import Actor
from tests.world import World

SHOWN = ("etag", "hortus-reason", "hortus-facts", "content-type", "content-length", "retry-after")
PAGE = 2
OK = 200
NOWHERE = "01900000-0000-7000-8000-00000000dead"
NOTHING = (b"", b'{"items":[],"next":null}')


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
    world: World, actor: Actor, template: str, elsewhere: Iterable[UUID | str], *, method: str = "GET", json: Any = None
) -> None:
    """What lies elsewhere is answered, byte for byte, like what is nowhere; ``template`` has a place ``{}`` for the id.

    So it is for changes (``method``, ``json``), which are refused like those of what is nowhere, and leave nothing.
    """
    version = 1 if method == "PATCH" else None
    nowhere = await world.request(method, template.format(NOWHERE), actor, json=json, version=version)
    assert nowhere.status_code == 404, (method, template, nowhere.text)
    await world.said()
    for each in elsewhere:
        answer = await world.request(method, template.format(each), actor, json=json, version=version)
        assert (answer.status_code, answer.content, answer.headers) == (nowhere.status_code, nowhere.content, nowhere.headers), template
    assert await world.said() == []


def _matches(template: str, path: str) -> bool:
    any_path = re.sub(r"\\\{\w+:path\\\}", ".+", re.escape(template))
    return re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", any_path), path) is not None
