"""Tokens at the doors: forgeries are refused at the gateway, services take no token at all, and others can verify ours."""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from authlib.oauth2.claims import JWTClaims
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from chassis import app, db, tls, tokens
from chassis.guard import IDENTITY_HEADER, write_identity
from chassis.settings import Settings
from compose.local.ports import free_port
from contracts.events import SigningKey
from contracts.policy import API, POLICY, Service, Who
from contracts.roles import NOBODY
from gateway import plane
from tests.forgeries import claims_of, forgeries, sign
from tests.gateway.stage import DOMAIN, Certificates, Stage, problem, public, until
from tests.gateway.test_transfers import PROJECT
from tests.serving import ended

NO_DATABASE = "postgresql+asyncpg://nobody@/nothing?host=/nowhere"


async def test_a_token_made_by_hand_passes_so_that_it_is_the_forgery_which_is_refused(stage: Stage) -> None:
    ada = stage.signs_in()
    token = sign(stage.key, {"alg": "ES256", "kid": "k1"}, claims_of(ada.user_id, ada.session_id))
    assert (await (await stage.client()).get("/projects", headers={"Authorization": f"Bearer {token}"})).status_code == 200


async def test_every_forgery_is_refused_at_once_and_no_service_hears_of_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "WAIT_S", 60.0)  # what is waited for outlasts the client's patience
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    forged = forgeries(stage.key, "k1", claims_of(ada.user_id, ada.session_id))
    client = await stage.client()
    for name, token in forged.items():
        for method, path in (("GET", "/projects"), ("GET", f"/projects/{PROJECT}"), ("POST", "/sessions"), ("GET", "/jwks.json")):
            answer = await client.request(method, path, headers={"Authorization": f"Bearer {token}"})
            assert (answer.status_code, problem(answer)) == (401, "invalid-credential"), name
    assert stage.seen == []
    await stage.records()
    disk = b"".join(path.read_bytes() for path in stage.gateway.spool.folder.iterdir())
    assert not any(token.encode() in disk for token in forged.values() if len(token) > 10)


async def test_a_forgery_is_no_better_because_the_true_token_was_seen_before(stage: Stage) -> None:
    ada = stage.signs_in()
    client = await stage.client(ada)
    assert (await client.get("/projects")).status_code == 200
    head, body, signature = ada.token.split(".")
    for token in (f"{head}.{body}.{signature[:-2]}AA", f"{head}.{body}.{signature}=", f"{head}=.{body}.{signature}", f"{ada.token}."):
        answer = await client.get("/projects", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 401, token
    assert len(stage.seen) == 1


async def test_only_a_token_of_our_form_waits_for_a_signing_key_that_is_not_known(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plane, "WAIT_S", 60.0)  # what is waited for outlasts the client's patience
    ada = stage.signs_in()
    claims = claims_of(ada.user_id, ada.session_id)
    newer = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    client = await stage.client()
    for name, token in forgeries(newer, "k2", claims).items():
        if token.count(".") != 2 or "alg" in name or "HS256" in name or len(token) > tokens.MAX_LENGTH:
            assert (await client.get("/projects", headers={"Authorization": f"Bearer {token}"})).status_code == 401, name
    signed = sign(newer, {"alg": "ES256", "kid": "k2"}, claims)
    asking = asyncio.create_task(client.get("/projects", headers={"Authorization": f"Bearer {signed}"}))
    done, _ = await asyncio.wait([asking], timeout=0.3)
    assert not done
    stage.tell(SigningKey(version=1, key_id="k2", jwk=public(newer), live=True))
    assert (await asking).status_code == 200


async def test_while_nothing_is_known_a_token_is_not_called_wrong(stage: Stage) -> None:
    stage.pulsing = False
    await until(lambda: not stage.gateway.projection.is_fresh())
    ada = stage.signs_in()
    token = sign(stage.key, {"alg": "ES256", "kid": "k2"}, claims_of(ada.user_id, ada.session_id))
    answer = await (await stage.client()).get("/projects", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, problem(answer)) == (503, "cannot-decide")


# The key set, and an independent verifier


async def key_set(stage: Stage) -> KeySet:
    answer = await (await stage.client()).get("/jwks.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jwk-set+json")
    assert answer.headers["cache-control"] == "max-age=60"
    made: KeySet = KeySet.import_key_set(answer.json())
    return made


def verified(token: str, keys: KeySet) -> dict[str, Any]:
    """What Authlib and its JOSE library make of a token of ours."""
    decoded = jwt.decode(token, keys, algorithms=["ES256"])
    claims = JWTClaims(
        decoded.claims,
        decoded.header,
        {name: {"essential": True, "value": tokens.ISSUER} for name in ("iss", "aud")} | {"exp": {"essential": True}},
    )
    claims.validate(leeway=0)
    return dict(claims)


async def test_an_independent_verifier_takes_our_tokens_by_our_key_set_while_their_key_lives(stage: Stage) -> None:
    ada = stage.signs_in()
    first = await key_set(stage)
    claims = verified(ada.token, first)
    assert (claims["sub"], claims["sid"]) == (str(ada.user_id), str(ada.session_id))
    newer = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    stage.tell(SigningKey(version=1, key_id="k2", jwk=public(newer), live=True))
    token, _ = tokens.issue(newer, "k2", ada.user_id, ada.session_id, datetime.now(UTC), timedelta(minutes=5))
    with pytest.raises(JoseError):
        verified(token, first)
    both = await key_set(stage)
    assert verified(ada.token, both)["sub"] == verified(token, both)["sub"] == str(ada.user_id)
    client = await stage.client(ada)
    for shown in (ada.token, token):
        assert (await client.get("/projects", headers={"Authorization": f"Bearer {shown}"})).status_code == 200
    stage.tell(SigningKey(version=2, key_id="k1", jwk=public(stage.key), live=False))
    last = await key_set(stage)
    assert verified(token, last)["sub"] == str(ada.user_id)
    with pytest.raises(JoseError):
        verified(ada.token, last)
    assert problem(await client.get("/projects")) == "invalid-credential"


async def test_the_key_set_holds_public_halves_alone_and_is_shown_only_while_it_is_known(stage: Stage) -> None:
    client = await stage.client()
    answer = await client.get("/jwks.json")
    (key,) = answer.json()["keys"]
    assert key == {**public(stage.key), "kid": "k1"}
    assert "d" not in key
    assert answer.headers["strict-transport-security"]
    assert (await client.post("/jwks.json")).status_code == 405
    assert [(record["action"], record["outcome"]) for record in await stage.records()] == [
        ("jwks.read", "allowed"),
        ("jwks.read", "refused"),
    ]
    stage.pulsing = False
    await until(lambda: not stage.gateway.projection.is_fresh())
    assert (await client.get("/jwks.json")).status_code == 503


# Services take no token


def doors_of(service: Service) -> list[tuple[str, str]]:
    """The doors that are not open to everybody, with ids of nothing in their paths."""
    fill = {"certificate_id": "0" * 32, "path": "a/b", "provider": "none"}
    return [
        (rule.method, API + re.sub(r"\{(\w+)(?::path)?\}", lambda name: fill.get(name[1], str(PROJECT)), rule.path))
        for rule in POLICY.values()
        if rule.service is service and Who.NOBODY not in rule.who
    ]


@pytest.fixture(params=["auth", "projects", "datasets"])
async def service(request: pytest.FixtureRequest, certificates: Certificates, tmp_path: Path) -> AsyncIterator[tuple[Service, str]]:
    """A service's own application behind its own listener; it has no database, and needs none to refuse."""
    name = Service(request.param)
    folder = certificates.folder(name.value)
    port = free_port()
    settings = Settings(
        service=name, tls_dir=folder, kafka="localhost:1", state_dir=tmp_path, listen=f"127.0.0.1:{port}", database_url=NO_DATABASE
    )
    spec = app.load(name)
    runtime = app.Runtime(settings, db.engine(NO_DATABASE), frozenset(spec.hears.topics))
    accepted = {tls.service_identity(DOMAIN, peer) for peer in ("gateway", "runner")}
    server = app.https_server(app.OperatorsOnly(app.create_app(spec, runtime), DOMAIN), settings, tls.protocol(accepted))
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield name, f"https://localhost:{port}"
    await ended(server, serving)
    await runtime.engine.dispose()


def as_peer(certificates: Certificates, name: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(verify=tls.client_context(certificates.folder(name)), timeout=10)


async def test_a_token_straight_to_a_service_gets_no_answer_without_the_gateways_certificate(
    service: tuple[Service, str], certificates: Certificates, stage: Stage
) -> None:
    _, address = service
    ada = stage.signs_in()
    bare = ssl.create_default_context(cafile=str(certificates.pki.root))
    bare.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    bare.load_verify_locations(certificates.pki.services_anchor)
    for client in (httpx2.AsyncClient(verify=bare), as_peer(certificates, "projects" if service[0] != "projects" else "datasets")):
        async with client:
            for headers in (ada.headers, {IDENTITY_HEADER: write_identity(NOBODY)}):
                with pytest.raises(httpx2.TransportError):
                    await client.get(f"{address}{API}/projects", headers=headers)
    async with as_peer(certificates, "runner") as runner:
        assert (await runner.get(f"{address}{API}/users/me", headers=ada.headers)).status_code == 404


async def test_no_token_opens_a_door_of_a_service_also_behind_the_gateways_certificate(
    service: tuple[Service, str], certificates: Certificates, stage: Stage
) -> None:
    name, address = service
    ada = stage.signs_in()
    stage.joins(ada, PROJECT)
    shown = [ada.token, stage.makes_key(ada).text, *forgeries(stage.key, "k1", claims_of(ada.user_id, ada.session_id)).values()]
    doors = doors_of(name)
    assert len(doors) > 5
    async with as_peer(certificates, "gateway") as client:
        for method, path in doors:
            answer = await client.request(method, address + path, headers=ada.headers)
            assert (answer.status_code, answer.headers["hortus-reason"]) == (401, "not-signed-in"), path
        method, path = doors[0]
        for text in shown:
            answer = await client.request(method, address + path, headers={"Authorization": f"Bearer {text}", "Cookie": f"token={text}"})
            assert (answer.status_code, answer.headers["hortus-reason"]) == (401, "not-signed-in"), text[:80]


async def test_an_identity_that_cannot_be_read_or_is_nobodys_opens_no_door(
    service: tuple[Service, str], certificates: Certificates, stage: Stage
) -> None:
    name, address = service
    ada = stage.signs_in()
    wrong = ["x", "e30", ada.token, ada.token.split(".")[1], json.dumps({"principal": "person"}), write_identity(NOBODY), ""]
    async with as_peer(certificates, "gateway") as client:
        for method, path in doors_of(name):
            for identity in wrong:
                answer = await client.request(method, address + path, headers={IDENTITY_HEADER: identity})
                assert answer.status_code == 401, (path, identity)
