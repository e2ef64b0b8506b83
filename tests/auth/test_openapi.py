"""An outside judge fuzzes every door of auth by its OpenAPI description: it finds no failure and no answer that is not described."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok

from chassis.golden import document
from chassis.guard import IDENTITY_HEADER, REQUEST_HEADER, write_identity
from compose.local.ports import free_port
from contracts.policy import POLICY, Action, Service
from contracts.roles import Actor
from services.auth.app import set_up
from tests.auth.people import begin, join
from tests.world import Databases, Worlds

TOKEN = "a-token-that-counts"
EXAMPLES = 12
# What fits the description can still break a rule that no schema says (an address that is none, a cursor of another list, a code that
# is not the one shown now, a logout token that nobody signed); each such refusal is a problem document, which the other checks hold it to.
REFUSALS = ["2xx", "3xx", "400", "401", "403", "404", "409", "412", "422", "428", "429"]
CONFIG = SchemathesisConfig.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": REFUSALS}}})
SCHEMA = schemathesis.openapi.from_dict(document(Service.AUTH), config=CONFIG)
DOORS = {operation.label: operation for operation in (found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok))}


class GatewayStandIn:
    """In front of the service: whoever shows the token is ``actor``, everybody else is nobody (ASGI)."""

    def __init__(self, app: Any, actor: Actor) -> None:
        self.app = app
        self.identity = write_identity(actor).encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            kept = [(name, value) for name, value in scope["headers"] if not name.startswith(b"hortus-")]
            if (b"authorization", f"Bearer {TOKEN}".encode()) in kept:
                kept.append((IDENTITY_HEADER.lower().encode(), self.identity))
            scope = {**scope, "headers": [*kept, (REQUEST_HEADER.lower().encode(), b"0")]}
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def address(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The real application on a real database, served in a thread with an event loop of its own, and an administrator who signed in."""
    folder = tmp_path_factory.mktemp("openapi")
    master = folder / "master.key"
    master.write_text("A" * 43)
    port = free_port()
    stopped: list[uvicorn.Server] = []
    started: Future[None] = Future()

    async def serve() -> None:
        async with Worlds(databases, folder) as worlds:
            world = await worlds.open("auth", **_settings(master, folder))
            await set_up(world.runtime)
            root = await join(world, "root@example.org", ["administrator"])
            session_id, _ = await begin(root)
            door = GatewayStandIn(world.app, root.actor(session_id))
            server = uvicorn.Server(uvicorn.Config(door, port=port, lifespan="off", log_config=None))
            stopped.append(server)
            serving = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(0.01)
            started.set_result(None)
            await serving

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    started.result(30)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stopped[0].should_exit = True
        thread.join(30)


def _settings(master: Path, folder: Path) -> dict[str, Any]:
    return {"master_key_file": master, "setup_file": folder / "setup", "registration": True}


def test_every_door_of_auth_is_described() -> None:
    assert len(DOORS) == len([action for action in Action if POLICY[action].service is Service.AUTH])


@pytest.mark.parametrize("door", DOORS)
def test_fuzzing_a_door_finds_no_failure_and_nothing_undescribed(door: str, address: str) -> None:
    operation = DOORS[door]

    @hypothesis_settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def fuzz(case: Case[Any]) -> None:
        case.call_and_validate(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"})

    fuzz()
