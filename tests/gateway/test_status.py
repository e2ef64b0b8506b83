"""The doors that say which certificates are revoked, through the gateway: open to everybody, and with what they carry in a path."""

import asyncio
import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.doors import MalformedPath
from tests.ca.conftest import BOB, issued, openssl, revoked, said, study
from tests.gateway.stage import Stage, problem
from tests.world import OURS, Worlds, scientist

REQUEST = bytes([0xFB, 0xEF, 0xBE, 0xFF, 0xFF])  # in base64: each letter that a path has to encode
IN_PATH = base64.b64encode(REQUEST).decode().replace("/", "%2F").replace("+", "%2B").replace("=", "%3D")


def answers(**headers: str) -> Any:
    async def answer(_scope: Any, _receive: Any, send: Any) -> None:
        given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": [*given, (b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    return answer


async def test_a_request_in_the_path_goes_on_as_it_came_and_is_recorded_as_it_is_read(stage: Stage) -> None:
    assert IN_PATH == "%2B%2B%2B%2B%2F%2F8%3D"
    answer = await (await stage.client()).get(f"/ocsp/{IN_PATH}")
    assert answer.status_code == 200
    [seen] = stage.seen
    assert (seen["service"], seen["path"]) == ("ca", f"/api/v1/ocsp/{IN_PATH}".encode())
    [record] = await stage.records()
    assert (record["action"], record["outcome"], record["actor"]) == ("ocsp.ask_by_path", "allowed", {"principal": "nobody"})
    assert record["resource"] == {}


async def test_openssl_asks_the_gateway_and_believes_what_is_answered(stage: Stage, worlds: Worlds, tmp_path: Path) -> None:
    """The real ca behind the gateway: openssl asks by POST itself; by GET it writes the request and reads the answer."""
    pki = stage.certificates.pki
    world = await worlds.open("ca", issuers_dir=pki.issuers_folder)
    await world.hear(*study())
    stage.answer = world.app
    leaf = await issued(world, scientist(OURS, BOB))
    (tmp_path / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    issuer = str(pki.issuers_folder / "people.pem")
    about = ["ocsp", "-issuer", issuer, "-cert", str(tmp_path / "leaf.pem"), "-CAfile", issuer, "-partial_chain"]
    client = await stage.client()
    for status in ("good", "revoked"):
        _, words = await asyncio.to_thread(said, *about, "-nonce", "-url", f"{stage.people}/api/v1/ocsp")
        assert "Response verify OK" in words
        assert f"leaf.pem: {status}" in words
        assert "onc" not in words  # neither a warning that there is no nonce, nor that it is another one
        openssl(*about, "-no_nonce", "-reqout", str(tmp_path / "request.der"))
        text = quote(base64.b64encode((tmp_path / "request.der").read_bytes()).decode(), safe="")
        (tmp_path / "answer.der").write_bytes((await client.get(f"/ocsp/{text}")).content)
        _, words = said(*about, "-no_nonce", "-respin", str(tmp_path / "answer.der"))
        assert "Response verify OK" in words
        assert f"leaf.pem: {status}" in words
        crl = x509.load_der_x509_crl((await client.get("/crls/people")).content)
        assert [entry.serial_number for entry in crl] == ([] if status == "good" else [leaf.serial_number])
        await revoked(world, scientist(OURS, BOB), leaf)


async def test_an_encoded_slash_in_another_path_still_is_no_path(stage: Stage) -> None:
    client = await stage.client()
    for path in ("/crls/people%2F", "/issuers%2Fpeople", "/ocsp%2FMEUw", "/oidc/a%2Fb/start", "/nothing/a%2Fb"):
        answer = await client.get(path)
        assert (answer.status_code, problem(answer)) == (400, MalformedPath.slug)
    assert stage.seen == []


async def test_everybody_may_ask_also_while_nothing_is_known_of_anybody(stage: Stage) -> None:
    stage.pulsing = False
    client = await stage.client()
    for path in ("/crls/people", "/crls/workloads", "/issuers/people", "/ocsp/MEUw"):
        assert (await client.get(path)).status_code == 200
    assert (await client.post("/ocsp", content=REQUEST)).status_code == 200
    assert [record["action"] for record in await stage.records()] == [
        "crl.read",
        "crl.read",
        "issuer.read",
        "ocsp.ask_by_path",
        "ocsp.ask",
    ]


async def test_a_request_of_more_than_4_kib_does_not_reach_the_service(stage: Stage) -> None:
    client = await stage.client()
    assert (await client.post("/ocsp", content=bytes(4096))).status_code == 200
    answer = await client.post("/ocsp", content=bytes(4097))
    assert (answer.status_code, problem(answer)) == (413, "too-large")
    assert len(stage.seen) == 1


@pytest.mark.parametrize(("path", "kept"), [("/crls/people", "no-cache"), ("/issuers/people", "no-cache"), ("/ocsp/MEUw", "no-store")])
async def test_only_what_is_the_same_for_everybody_may_be_kept(stage: Stage, path: str, kept: str) -> None:
    stage.answer = answers(cache_control="no-cache", etag='"7"')
    answer = await (await stage.client()).get(path)
    assert answer.headers.get_list("cache-control") == [kept]
    assert answer.headers["etag"] == '"7"'


async def test_an_answer_that_says_nothing_of_it_is_not_kept(stage: Stage) -> None:
    stage.answer = answers()
    answer = await (await stage.client()).get("/crls/people")
    assert answer.headers.get_list("cache-control") == ["no-store"]
