"""An outside judge fuzzes every door of auth by its OpenAPI description: it finds no failure and no answer that is not described."""

import asyncio
import itertools
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok

from chassis.golden import document
from chassis.guard import IDENTITY_HEADER, REQUEST_HEADER, write_identity
from compose.local.ports import free_port
from contracts.policy import API, POLICY, Action, Service
from contracts.roles import Actor
from services.auth.app import set_up
from services.auth.routes.cookies import OIDC
from services.auth.routes.tools import SOURCE_HEADER
from tests.auth.identity import FakeProvider, Tls, faking, settings_for
from tests.auth.people import begin, join
from tests.world import Databases, Worlds

TOKEN = "a-token-that-counts"
PROVIDER = "hospital"
CALLBACK = f"GET {API}/oidc/{{provider}}/callback"
ENDED: dict[str, dict[str, str]] = {"http://schemas.openid.net/event/backchannel-logout": {}}
LOGOUT = f"POST {API}/oidc/{{provider}}/logout"
TEXT = st.text(st.characters(exclude_categories=()), max_size=40)  # JSON can name half a surrogate pair
CLAIMS = st.fixed_dictionaries({}, optional=dict.fromkeys(["sub", "email", "sid", "jti"], TEXT))
EXAMPLES = 12
# What fits the description can still break a rule that no schema says (an address that is none, a cursor of another list, a code that
# is not the one shown now, a logout token that nobody signed); each such refusal is a problem document, which the other checks hold it to.
REFUSALS = ["2xx", "3xx", "400", "401", "403", "404", "409", "412", "422", "428", "429"]
CONFIG = SchemathesisConfig.from_dict({"checks": {"positive_data_acceptance": {"expected-statuses": REFUSALS}}})
SCHEMA = schemathesis.openapi.from_dict(document(Service.AUTH), config=CONFIG)
DOORS = {operation.label: operation for operation in (found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok))}


class GatewayStandIn:
    """In front of the service: whoever shows the token is ``actor``, everybody else is nobody, and nobody comes twice from one address (ASGI)."""

    def __init__(self, app: Any, actor: Actor) -> None:
        self.app = app
        self.identity = write_identity(actor).encode()
        self.sources = itertools.count(1)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            kept = [(name, value) for name, value in scope["headers"] if not name.startswith(b"hortus-")]
            if (b"authorization", f"Bearer {TOKEN}".encode()) in kept:
                kept.append((IDENTITY_HEADER.lower().encode(), self.identity))
            kept.append((SOURCE_HEADER.lower().encode(), f"2001:db8:{next(self.sources):x}::1".encode()))
            scope = {**scope, "headers": [*kept, (REQUEST_HEADER.lower().encode(), b"0")]}
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProvider]:
    """An identity provider that is there."""
    with faking(Tls.make(tmp_path_factory.mktemp("provider"))) as fake:
        yield fake


@pytest.fixture(scope="module")
def address(databases: Databases, tmp_path_factory: pytest.TempPathFactory, provider: FakeProvider) -> Iterator[str]:
    """The real application on a real database, served in a thread with an event loop of its own, and an administrator who signed in.

    It has an identity provider, mail, and people who ask to be let in.
    """
    folder = tmp_path_factory.mktemp("openapi")
    master = folder / "master.key"
    master.write_text("A" * 43)
    port = free_port()
    stopped: list[uvicorn.Server] = []
    started: Future[None] = Future()

    async def serve() -> None:
        async with Worlds(databases, folder) as worlds:
            without_mail = await worlds.open("auth", **_settings(master, folder))
            await set_up(without_mail.runtime)
            root = await join(without_mail, "root@example.org", ["administrator"])
            session_id, _ = await begin(root)
            more = settings_for(folder, provider.issuer, provider.tls) | {"smtp_url": "smtps://localhost:1"}
            world = await worlds.open("auth", beside=without_mail, **_settings(master, folder), **more)
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
def test_fuzzing_a_door_finds_no_failure_and_nothing_undescribed(door: str, address: str, provider: FakeProvider) -> None:
    operation = DOORS[door]
    named: dict[str, Any] = {"path_parameters": {"provider": PROVIDER}} if "{provider}" in door else {}

    @hypothesis_settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(**named), claims=st.none() | CLAIMS)
    def fuzz(case: Case[Any], claims: dict[str, str] | None) -> None:
        if door == CALLBACK and claims is not None:
            come_back(case, address, provider, claims)
        if door == LOGOUT and claims is not None:
            case.body = {"logout_token": provider.sign(provider.claims(**{"events": ENDED, "jti": "one", **claims}))}
        case.call_and_validate(base_url=address, headers={"Authorization": f"Bearer {TOKEN}"})

    fuzz()
    assert door != CALLBACK or provider.asks("/token")


def come_back(case: Case[Any], address: str, provider: FakeProvider, claims: dict[str, str]) -> None:
    """Let a browser that was sent to the provider come back from there; the code is good for a token with these claims."""
    sent = httpx2.get(f"{address}{API}/oidc/{PROVIDER}/start")
    asked = {name: values[0] for name, values in parse_qs(urlsplit(sent.headers["location"]).query).items()}
    found = re.search(f"{OIDC}=([^;]+)", sent.headers["set-cookie"])
    assert found is not None
    case.cookies = {OIDC: found[1]}
    case.query = {"code": "one", **(case.query or {}), "state": asked["state"], "iss": provider.issuer}
    token = provider.sign(provider.claims(**{"nonce": asked["nonce"], "email_verified": True, **claims}))
    provider.answers["/token"] = lambda _: (200, {"id_token": token})
