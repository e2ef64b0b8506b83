"""Certificates through a real gateway, with a broker and the whole of ca."""

import argparse
import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

from uuid_utils.compat import uuid7

from bench._ca_doors import REPOSITORY, START_S, Asked, doors
from bench._closed_loop import Client, closed_loop, connected, post
from bench._waiting import until
from bench.gateway import WRITERS, Site, tell
from chassis import tokens
from compose.local.kafka import Kafka
from compose.local.pki import Pki
from compose.local.ports import free_port
from contracts.events import TOPICS, Fact, Membership, Project, ProjectState, Session, SigningKey, User, UserStatus
from contracts.policy import API
from contracts.roles import Role

CROWD = 400
CLIENTS = 64


class Crowd(Site):
    """People who signed in, members of one project, at a gateway whose only service is ca."""

    def __init__(self, folder: Path, pki: Pki, kafka: Kafka, services: list[int]) -> None:
        super().__init__(folder, pki, kafka)
        self.services = services
        self.people = [(uuid7(), uuid7(), f"g{number:07d}") for number in range(CROWD)]

    def facts(self) -> list[Fact]:
        """What makes them members."""
        now = datetime.now(UTC)
        later = now + timedelta(hours=8)
        public = {name: value for name, value in self.key.items() if name != "d"}
        told: list[Fact] = [
            SigningKey(version=1, key_id="bench", jwk=public, live=True),
            Project(version=1, project_id=self.project, name="bench", description="", state=ProjectState.ACTIVE),
        ]
        for user, session, name in self.people:
            told += [
                User(version=1, user_id=user, username=name, status=UserStatus.ACTIVE, cluster_roles=frozenset()),
                Session(version=1, session_id=session, user_id=user, live=True, factor_at=now, expires_at=later),
                Membership(
                    version=1,
                    project_id=self.project,
                    user_id=user,
                    username=name,
                    role=Role.DATA_SCIENTIST,
                    purpose="bench",
                    starts_at=now - timedelta(hours=1),
                    ends_at=later,
                ),
            ]
        return told

    def tokens(self) -> list[str]:
        """An access token for each."""
        now = datetime.now(UTC)
        return [tokens.issue(self.key, "bench", user, session, now, timedelta(minutes=5))[0] for user, session, _ in self.people]

    def environment(self, people: int) -> dict[str, str]:
        """The gateway's environment."""
        upstreams = {"ca": [f"https://localhost:{port}" for port in self.services]}
        return super().environment(people) | {"HORTUS_UPSTREAMS": json.dumps(upstreams), "HORTUS_LOG_LEVEL": "WARNING"}


async def through_gateway(folder: Path, pki: Pki, url: str, asked: list[Asked], arguments: argparse.Namespace) -> list[dict[str, float]]:
    """Certificates a second through a gateway, with a broker, and the whole of ca: an answer waits until the gateway has heard of the certificate."""
    kafka = Kafka(pki.home, pki)
    for name in ("runner", *WRITERS):
        pki.issue_service_certificate(name, pki.home.tls_folder(name))
    found: list[dict[str, float]] = []
    telling: list[asyncio.Task[None]] = []
    try:
        await asyncio.to_thread(kafka.start)
        kafka.apply_catalogue(TOPICS)
        with doors(folder, pki, url, arguments.processes, kafka.bootstrap) as door:
            site = Crowd(folder, pki, kafka, door.ports)
            facts = site.facts()
            own = {name: [fact for fact in facts if fact.topic.owner == name] for name in ("auth", "projects")}
            telling = [asyncio.create_task(tell(site, name, said)) for name, said in own.items()]
            port = free_port()
            context = ssl.create_default_context(cafile=str(pki.root))
            with (folder / "gateway.log").open("wb") as log, _child(site.environment(port), log):
                shown = site.tokens()
                orders = [
                    post(
                        f"{API}/projects/{site.project}/certificates",
                        each.body,
                        "application/json",
                        f"Authorization: Bearer {shown[number % len(shown)]}",
                    )
                    for number, each in enumerate(asked)
                ]
                await _until_issued(port, context, orders[0])
                for _ in range(arguments.runs):
                    clients = await connected([port], context, CLIENTS)
                    load = await closed_loop(
                        clients,
                        arguments.seconds,
                        lambda number: orders[number % len(orders)],
                        201,
                        1 + sum(int(each["count"]) for each in found),
                    )
                    found.append(load.figures())
    finally:
        for task in telling:
            task.cancel()
        await asyncio.gather(*telling, return_exceptions=True)
        await asyncio.to_thread(kafka.stop)
    return found


@contextlib.contextmanager
def _child(environment: dict[str, str], log: Any) -> Iterator[None]:
    child = subprocess.Popen([sys.executable, "-m", "gateway"], cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        child.terminate()
        child.wait(30)


async def _until_issued(port: int, context: ssl.SSLContext, order: bytes) -> None:
    """Wait until somebody gets a certificate: everything has arrived everywhere."""

    async def issued() -> bool:
        client = await Client.open(port, context)
        status, _ = await client.send(order)
        client.close()
        return status == HTTPStatus.CREATED

    await until(issued, START_S)
