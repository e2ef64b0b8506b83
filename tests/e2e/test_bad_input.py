"""What strangers, careless programs and attackers send: every refusal is a sentence, nothing is stored, nothing secret is logged."""

import base64
import hashlib
import hmac
import json
import re
import secrets
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import httpx2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from uuid_utils.compat import uuid7

from chassis import tls, tokens
from chassis.guard import IDENTITY_HEADER, write_identity
from compose.local.home import Home
from compose.local.pki import Pki
from compose.local.suite import RUNNER
from contracts.policy import DEFAULT_BODY, Service
from contracts.roles import Actor, ClusterRole, Principal, Role
from services.auth.vault import Vault, read_master_key
from tests.e2e.scene import Scene, Somebody, until, works

pytestmark = pytest.mark.timeout(400)

API = "/api/v1"
TYPE = "urn:hortus:problem:"
NOWHERE = "01900000-0000-7000-8000-00000000dead"
SILENCE_SECONDS = 0.5
JSON = {"Content-Type": "application/json"}
CHASSIS = ("outbox", "audit_outbox", "audit_counter", "heads", "inbox", "partitions_heard", "relay_lease", "idempotency", "attempts")


@dataclass(frozen=True)
class Place:
    """A study with a dataset in it, of the scene's owner; the scientist is a member."""

    project: str
    dataset: str

    @property
    def path(self) -> str:
        return f"/projects/{self.project}"

    @property
    def files(self) -> str:
        return f"{self.path}/datasets/{self.dataset}/files"


@pytest.fixture(scope="module")
def place(doubled: Scene) -> Place:
    project = doubled.study(scientist="data_scientist")
    made = Place(project, doubled.owner.at(0).datasets.create(project, "mri")["dataset_id"])
    doubled.owner.at(0).datasets.put(made.project, made.dataset, [b"a,b\n1,2\n"], "table.csv")
    until(lambda: works(lambda: doubled.scientist.at(1).projects.get(project)), "the scientist is a member at both gateways")
    return made


class Door:
    """Requests as a program without the library would send them, one by one over kept connections."""

    def __init__(self, scene: Scene, gateway: int = 0) -> None:
        context = ssl.create_default_context(cafile=str(scene.suite.root))
        self._http = httpx2.Client(base_url=scene.suite.addresses[gateway], verify=context, timeout=30, trust_env=False)

    def __call__(self, method: str, path: str, who: Somebody | str | None = None, **more: Any) -> httpx2.Response:
        """Send one request below the API; 503 (cannot decide at this moment) is asked again, as every client does."""
        headers = dict(more.pop("headers", {}))
        token = who.token if isinstance(who, Somebody) else who
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        answers: list[httpx2.Response] = []

        def decided() -> bool:
            answers.append(self._http.request(method, API + path, headers=headers, **more))
            return answers[-1].status_code != 503

        until(decided, "the gateway decides")
        return answers[-1]

    def close(self) -> None:
        self._http.close()


@pytest.fixture(scope="module")
def door(doubled: Scene) -> Iterator[Door]:
    made = Door(doubled)
    yield made
    made.close()


def problem(answer: httpx2.Response) -> dict[str, Any]:
    """The problem document of a refusal; it has a type, a sentence and no internals."""
    assert answer.headers["content-type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert said["type"].startswith(TYPE)
    assert len(said["type"]) > len(TYPE)
    assert said["status"] == answer.status_code
    assert len(said["title"].split()) >= 2
    assert answer.headers["hortus-reason"] == said["type"].removeprefix(TYPE)
    text = answer.text
    for internal in ("Traceback", "sqlalchemy", "asyncpg", "pydantic", 'File "', str(Path(__file__).parents[2]), "localhost:"):
        assert internal not in text
    return said


def refused(answer: httpx2.Response, *statuses: int) -> str:
    """The slug of a refusal that has one of these statuses."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:500])
    return str(problem(answer)["type"]).removeprefix(TYPE)


def stored(scene: Scene, *services: Service) -> dict[str, str]:
    """A fingerprint of every row that the services keep, without what the chassis keeps for its own work and when a sign-in was last used."""
    kept = ", ".join(f"'{name}'" for name in CHASSIS)
    found = {}
    for service in services:
        tables = scene.suite.postgres.run_sql(
            f"SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT IN ({kept}) ORDER BY 1;", service
        ).split()
        queries = "".join(
            f"WITH t AS (SELECT (to_jsonb(r) - 'last_used_at')::text AS kept FROM {table} r) "
            f"SELECT '{table}', md5(coalesce(string_agg(kept, '|' ORDER BY kept), '')) FROM t;\n"
            for table in tables
        )
        found[str(service)] = scene.suite.postgres.run_sql(queries, service)
    if Service.DATASETS in services:
        found["blobs"] = " ".join(sorted(str(file) for file in scene.suite.blobs.rglob("*") if file.is_file()))
    return found


@contextmanager
def nothing_stored(scene: Scene, *services: Service) -> Iterator[None]:
    before = stored(scene, *services)
    yield
    assert stored(scene, *services) == before


# Paths and methods


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/projects/not-an-id",
        f"/projects/{NOWHERE}/nothing",
        f"/projects/{NOWHERE}/datasets/{NOWHERE}/files/",
        "/users/me/and/more",
        "/livez",
        "/metrics",
        "/outbox",
    ],
)
def test_an_unknown_path_is_no_path_for_anybody(doubled: Scene, door: Door, path: str) -> None:
    for who in (None, doubled.administrator):
        assert refused(door("GET", path, who), 404) == "unknown-path"


def test_the_operators_doors_are_not_reached_from_outside(doubled: Scene) -> None:
    context = ssl.create_default_context(cafile=str(doubled.suite.root))
    with httpx2.Client(base_url=doubled.suite.address, verify=context, trust_env=False) as client:
        for path in ("/livez", "/readyz", "/metrics", "/", "/docs", "/openapi.json", "/api/v2/projects"):
            refused(client.get(path), 404)


def test_a_known_path_says_which_methods_it_takes(doubled: Scene, door: Door, place: Place) -> None:
    for method, path, allowed in (
        ("DELETE", "/projects", "GET, POST"),
        ("PUT", place.path, "GET, PATCH"),
        ("POST", "/search", "GET"),
        ("TRACE", "/projects", "GET, POST"),
        ("PROPFIND", "/projects", "GET, POST"),
    ):
        answer = door(method, path, doubled.owner)
        assert refused(answer, 405) == "method-not-allowed"
        assert answer.headers["allow"] == allowed


# Bodies

NOT_JSON = [
    b"",
    b"{",
    b"[1",
    b'{"name": }',
    b"\xff\xfe{}",
    b"name=x",
    b"null",
    b'"text"',
    b"[]",
    b"1e400",
    b"NaN",
    b"{" * 5000,
    b"[" * 100_000,
]
PROJECT_BODIES: list[Any] = [
    {},
    {"name": None},
    {"name": 7},
    {"name": ["a"]},
    {"name": {"a": 1}},
    {"name": ""},
    {"name": "x" * 10_000},
    {"name": "with space"},
    {"name": "a__b"},
    {"name": "../etc"},
    {"name": "study\u0000"},
    {"name": "study\u202e"},
    {"name": "\ud83d"},
    {"name": "stu\u0301dy"},
    {"name": "\uff53tudy"},
    {"name": "fine_name", "description": "x" * 3000},
    {"name": "fine_name", "description": "a\u0000b"},
    {"name": "fine_name", "description": "\udc00"},
    {"name": "fine_name", "owner": "me"},
    {"name": "fine_name", "project_id": NOWHERE},
]


def test_a_body_that_is_no_json_or_has_wrong_types_is_refused_and_nothing_is_stored(doubled: Scene, door: Door) -> None:
    person = doubled.owner
    with nothing_stored(doubled, Service.PROJECTS):
        for sent in NOT_JSON:
            refused(door("POST", "/projects", person, content=sent, headers=JSON), 400, 422)
        for body in PROJECT_BODIES:
            refused(door("POST", "/projects", person, content=json.dumps(body).encode(), headers=JSON), 422)
        refused(door("POST", "/projects", person, content=b'{"name": "fine_name"}', headers={"Content-Type": "text/plain"}), 415, 422)


def test_wrong_values_of_members_are_refused_and_nothing_is_stored(doubled: Scene, door: Door, place: Place) -> None:
    fine = {"username": doubled.auditor.username, "role": "data_scientist"}
    wrong: list[dict[str, Any]] = [
        {"role": "root"},
        {"role": None},
        {"role": ["data_owner"]},
        {"username": "Nobody00"},
        {"username": "a" * 5000},
        {"username": {"$ne": ""}},
        {"username": "x' OR '1'='1"},
        {"ends_at": "tomorrow"},
        {"ends_at": "2020-01-01T00:00:00Z"},
        {"ends_at": "2030-01-01T00:00:00"},
        {"ends_at": "9999999-01-01T00:00:00Z"},
        {"ends_at": 1e300},
        {"starts_at": "2040-01-01T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"},
        {"purpose": "p" * 501},
        {"purpose": "bell\u0007"},
        {"cluster_roles": ["administrator"]},
    ]
    with nothing_stored(doubled, Service.PROJECTS):
        for change in wrong:
            refused(door("POST", f"{place.path}/members", doubled.owner, json=fine | change), 422)


def test_wrong_values_of_datasets_jobs_certificates_and_people_are_refused_and_nothing_is_stored(
    doubled: Scene, door: Door, place: Place
) -> None:
    job = {"name": "j", "program": "print()", "environment": "python", "inputs": []}
    orders: list[tuple[str, Somebody, dict[str, Any]]] = [
        (f"{place.path}/datasets", doubled.owner, {"name": ""}),
        (f"{place.path}/datasets", doubled.owner, {"name": "a\u0000b"}),
        (f"{place.path}/datasets", doubled.owner, {"name": "n" * 101}),
        (f"{place.path}/datasets", doubled.owner, {"name": "fine", "kind": "rootkit"}),
        (f"{place.path}/datasets", doubled.owner, {"name": "fine", "origins": []}),
        (f"{place.path}/datasets", doubled.owner, {"name": "fine", "description": "\ud800"}),
        (f"{place.path}/jobs", doubled.owner, job | {"program": ""}),
        (f"{place.path}/jobs", doubled.owner, job | {"program": "#" * (64 * 1024 + 1)}),
        (f"{place.path}/jobs", doubled.owner, job | {"program": "\u0000"}),
        (f"{place.path}/jobs", doubled.owner, job | {"environment": "../../bin"}),
        (f"{place.path}/jobs", doubled.owner, job | {"inputs": "all"}),
        (f"{place.path}/jobs", doubled.owner, job | {"inputs": [place.dataset, place.dataset]}),
        (f"{place.path}/jobs", doubled.owner, job | {"resources": {"wall_seconds": -1}}),
        (f"{place.path}/jobs", doubled.owner, job | {"resources": {"memory_mib": 10**30}}),
        (f"{place.path}/jobs", doubled.owner, job | {"resources": {"cores": 1.5}}),
        (f"{place.path}/jobs", doubled.owner, job | {"arguments": ["a"] * 33}),
        (f"{place.path}/certificates", doubled.owner, {"csr": ""}),
        (
            f"{place.path}/certificates",
            doubled.owner,
            {"csr": "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"},
        ),
        (f"{place.path}/certificates", doubled.owner, {"csr": "x" * 9000}),
        ("/users", doubled.administrator, {"email": "nobody"}),
        ("/users", doubled.administrator, {"email": "a@b\u0000.example"}),
        ("/users", doubled.administrator, {"email": "a" * 400 + "@b.example"}),
        ("/users", doubled.administrator, {"email": "fine@b.example", "cluster_roles": ["god"]}),
        ("/users", doubled.administrator, {"email": "fine@b.example", "cluster_roles": "administrator"}),
    ]
    with nothing_stored(doubled, Service.AUTH, Service.CA, Service.DATASETS, Service.JOBS):
        for path, person, body in orders:
            refused(door("POST", path, person, content=json.dumps(body).encode(), headers=JSON), 422)


def test_a_body_that_is_too_large_is_refused_whether_announced_or_not(doubled: Scene, door: Door) -> None:
    large = b'{"name": "' + b"x" * DEFAULT_BODY + b'"}'
    with nothing_stored(doubled, Service.PROJECTS):
        assert refused(door("POST", "/projects", doubled.owner, content=large, headers=JSON), 413) == "too-large"
        assert (
            refused(door("POST", "/projects", doubled.owner, content=iter([large[:1000], large[1000:]]), headers=JSON), 413) == "too-large"
        )
        assert refused(door("POST", "/sessions", None, content=large, headers=JSON), 413) == "too-large"


# Names of files

ESCAPES = [
    "../../../etc/passwd",
    "..",
    "a/../b",
    "a/./b",
    "./a",
    "%2e%2e/%2e%2e/etc/passwd",
    "%2E%2E%2Fetc%2Fpasswd",
    "a/%2e%2e/b",
    "..%2f..%2fetc",
    "..%5c..%5cetc",
    "..\\etc",
    "a//b",
    "/absolute",
    "%2fabsolute",
    "a%00b",
    "a%0ab",
    "a%0d%0aHost:%20x",
    "a%7f",
    "%c0%ae%c0%ae/etc",
    "%ff%fe",
    "%ed%a0%80",
    "a%zz",
    "a%2",
    "a%e2%80%ae.csv",
    "a" * 300,
    "/".join(["d" * 100] * 15),
    "a" * 5000,
    "stu%cc%81dy.csv" + "e%cc%81",
]


def test_a_file_name_that_could_mean_another_place_is_refused_and_nothing_is_stored(doubled: Scene, place: Place) -> None:
    with nothing_stored(doubled, Service.DATASETS):
        for name in ESCAPES:
            for method in (b"PUT", b"GET"):
                head = f" {API}{place.files}/{name} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {doubled.owner.token}\r\n".encode()
                body = b"Content-Length: 4\r\n\r\ndata" if method == b"PUT" else b"\r\n"
                status, headers, said = raw(doubled, method + head + b"Connection: close\r\n" + body)[0]
                assert status in {400, 404, 422}, (method, name, status, said[:300])
                assert headers["content-type"] == "application/problem+json"
                assert json.loads(said)["type"].startswith(TYPE)
        assert [file["path"] for file in doubled.owner.at(0).datasets.files(place.project, place.dataset)] == ["table.csv"]


def test_odd_names_that_mean_one_place_only_are_kept_as_they_are(doubled: Scene, place: Place) -> None:
    project, dataset = place.project, doubled.owner.at(0).datasets.create(place.project, "odd")["dataset_id"]
    names = ["größe.csv", "表.csv", "a b+c&d=e?f#g.csv", "...", "..a", "a..", "-rf", "'; DROP TABLE files;--", "%2e%2e", "🧬.txt", "x/y/z"]
    for name in names:
        doubled.owner.at(0).datasets.put(project, dataset, [b"1"], name)
    assert sorted(file["path"] for file in doubled.owner.at(1).datasets.files(project, dataset)) == sorted(names)


def test_a_wrong_hash_and_wrong_lengths_store_nothing(doubled: Scene, door: Door, place: Place) -> None:
    with nothing_stored(doubled, Service.DATASETS):
        for announced, slug in (("0" * 64, "hash-differs"), ("no hash", "invalid-hash"), ("0" * 63, "invalid-hash")):
            answer = door("PUT", f"{place.files}/new.csv", doubled.owner, content=b"data", headers={"Hortus-Content-SHA256": announced})
            assert refused(answer, 422) == slug
        head = f"PUT {API}{place.files}/new.csv HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {doubled.owner.token}\r\n"
        for length in ("-1", "+4", "4 4", "0x4", "9" * 30, "four", "4.0", ""):
            answers = raw(doubled, f"{head}Content-Length: {length}\r\n\r\ndata".encode())
            assert [status for status, _, _ in answers] == [400], length
        # The announced bytes do not come.
        assert raw(doubled, f"{head}Content-Length: 100\r\n\r\ndata".encode(), half=True) == []


# Lists


def test_odd_limits_and_forged_cursors_are_refused(doubled: Scene, door: Door, place: Place) -> None:
    def cursor(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    lists = [
        ("/projects", doubled.owner),
        (f"{place.path}/members", doubled.owner),
        (f"{place.path}/datasets", doubled.owner),
        (place.files, doubled.owner),
        (f"{place.path}/jobs", doubled.owner),
        (f"{place.path}/certificates", doubled.owner),
        ("/users", doubled.administrator),
        ("/sessions", doubled.owner),
        ("/agents", doubled.administrator),
        ("/audit/records", doubled.auditor),
        ("/search", doubled.owner),
    ]
    forged = [
        "nonsense",
        "%00",
        cursor("text"),
        cursor({"a": 1}),
        cursor([{"a": []}]),
        cursor([[1]]),
        cursor([1, 2, 3, 4, 5, 6]),
        cursor([10**40]),
    ]
    forged += [cursor(["' OR 1=1 --", "x"]), "A" * 5000, cursor([True, None, "\u0000"])]
    for path, person in lists:
        query = {"q": "mri"} if path == "/search" else {}
        for limit in ("0", "-1", "201", "1e3", "all", "9" * 40, "1;2", "\u0663"):
            refused(door("GET", path, person, params=query | {"limit": limit}), 400, 422)
        for after in forged:
            refused(door("GET", path, person, params=query | {"after": after}), 400, 422)


def test_odd_questions_to_search_and_audit_are_answered_or_refused_and_never_break(doubled: Scene, door: Door) -> None:
    questions = [
        "",
        " ",
        "*",
        "a" * 10_000,
        "\u0000",
        "mri AND *:*",
        '{"match_all":{}}',
        "_exists_:name",
        "\u202e",
        "\\",
        '"',
        "🧬",
        "/.*/",
        "a" * 300 + "~2",
    ]
    for question in questions:
        answer = door("GET", "/search", doubled.scientist, params={"q": question})
        assert answer.status_code == 200 or refused(answer, 400, 414, 422), question
    for name in ("source", "actor", "action", "outcome", "project_id"):
        for value in ("' OR 1=1 --", "\u0000", "x" * 3000, "%", "\U0010ffff"):
            answer = door("GET", "/audit/records", doubled.auditor, params={name: value})
            assert answer.status_code == 200 or refused(answer, 400, 422), (name, value)
            assert answer.status_code != 200 or answer.json()["items"] == []


# Tokens


@dataclass(frozen=True)
class SigningKey:
    """The live signing key of the suite, as its thief would have it."""

    key_id: str
    private: dict[str, str]

    @property
    def public(self) -> dict[str, str]:
        return {name: value for name, value in self.private.items() if name != "d"}


@pytest.fixture(scope="module")
def signing_key(doubled: Scene) -> SigningKey:
    rows = doubled.suite.postgres.run_sql("SELECT key_id, encode(sealed, 'hex') FROM signing_keys WHERE live;", "auth")
    key_id, sealed = rows.splitlines()[-1].split("|")
    environment = doubled.suite.parts["auth-1"].child.environment  # type: ignore[union-attr]
    vault = Vault(read_master_key(Path(environment["HORTUS_MASTER_KEY_FILE"])))
    return SigningKey(key_id, vault.signing_key(key_id, bytes.fromhex(sealed)).to_dict())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def written(header: Mapping[str, Any], claims: Mapping[str, Any], signature: bytes | None = None, secret: bytes = b"") -> str:
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{signed}.{b64(hmac.digest(secret, signed.encode(), 'sha256') if signature is None else signature)}"


def signed_es256(key: Mapping[str, str], header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    numbers = ec.derive_private_key(int.from_bytes(base64.urlsafe_b64decode(key["d"] + "=="), "big"), ec.SECP256R1())
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    r, s = decode_dss_signature(numbers.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def test_a_token_made_with_the_right_key_and_the_right_claims_is_let_in(doubled: Scene, door: Door, signing_key: SigningKey) -> None:
    """Without this, the refusals below would prove nothing."""
    owner, now = doubled.owner, datetime.now(UTC)
    made, _ = tokens.issue(signing_key.private, signing_key.key_id, UUID(owner.user_id), UUID(owner.session_id), now, timedelta(minutes=1))
    assert door("GET", "/users/me", made).status_code == 200


def test_forged_expired_foreign_and_confused_tokens_are_refused(doubled: Scene, door: Door, signing_key: SigningKey) -> None:
    owner, now = doubled.owner, int(time.time())
    key, header = signing_key.private, {"alg": "ES256", "typ": "JWT", "kid": signing_key.key_id}
    stranger = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    fine = {"iss": "hortus", "aud": "hortus", "sub": owner.user_id, "sid": owner.session_id, "iat": now, "exp": now + 60, "jti": NOWHERE}
    public = json.dumps(signing_key.public).encode()
    parts = owner.token.split(".")

    def ours(**change: Any) -> str:
        claims = {name: value for name, value in (fine | change).items() if value is not None}
        return signed_es256(key, header, claims)

    forged = {
        "foreign key, known id": signed_es256(stranger, header, fine),
        "foreign key, foreign id": signed_es256(stranger, header | {"kid": "other"}, fine),
        "foreign key in the header": signed_es256(stranger, header | {"jwk": {k: v for k, v in stranger.items() if k != "d"}}, fine),
        "key at an address": signed_es256(stranger, header | {"kid": None, "jku": "https://localhost/keys"}, fine),
        "no algorithm": written({"alg": "none", "typ": "JWT", "kid": signing_key.key_id}, fine, b""),
        "no algorithm, odd case": written({"alg": "nOnE", "kid": signing_key.key_id}, fine, b""),
        "public key as an HMAC secret": written({"alg": "HS256", "kid": signing_key.key_id}, fine, secret=public),
        "x as an HMAC secret": written({"alg": "HS256", "kid": signing_key.key_id}, fine, secret=signing_key.public["x"].encode()),
        "another curve's name": signed_es256(key, header | {"alg": "ES384"}, fine),
        "expired": ours(iat=now - 600, exp=now - 300),
        "just expired": ours(iat=now - 300, exp=now - 6),
        "from the future": ours(iat=now + 600, exp=now + 900),
        "without an end": ours(exp=None),
        "without a beginning": ours(iat=None),
        "for another audience": ours(aud="elsewhere"),
        "from another issuer": ours(iss="elsewhere"),
        "without a person": ours(sub=None),
        "without a session": ours(sid=None),
        "an unknown session": ours(sid=str(uuid7())),
        "somebody else's session": ours(sid=doubled.scientist.session_id),
        "somebody else's person": ours(sub=doubled.administrator.user_id),
        "a person that is no id": ours(sub="admin"),
        "zero signature": written(header, fine, bytes(64)),
        "cut signature": owner.token[:-4],
        "without a signature": f"{parts[0]}.{parts[1]}.",
        "other claims under the signature": f"{parts[0]}.{b64(json.dumps(fine | {'sub': doubled.administrator.user_id}).encode())}.{parts[2]}",
        "two tokens": f"{owner.token}.{owner.token}",
        "no token": "x",
        "three dots": "...",
        "very long": "a" * 20_000,
    }
    for what, token in forged.items():
        for path in ("/users/me", "/projects", f"/projects/{NOWHERE}"):
            answer = door("GET", path, token)
            assert answer.status_code == 401, (what, path, answer.status_code)
            problem(answer)
            assert answer.headers["www-authenticate"] == "Bearer"
    for authorization in ("", "Bearer", "Basic YTpi", f"bearer  {owner.token}", f"Bearer {owner.token} x", f"Token {owner.token}"):
        assert door("GET", "/users/me", headers={"Authorization": authorization}).status_code == 401, authorization
    head = f"GET {API}/users/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {owner.token}\r\nAuthorization: Bearer x\r\nConnection: close\r\n\r\n"
    assert [status for status, _, _ in raw(doubled, head.encode())] == [400], "of two credentials none is taken"


def test_a_wrong_password_code_and_account_are_told_apart_by_nobody(doubled: Scene, door: Door) -> None:
    owner = doubled.owner
    used = owner.codes[-1]
    tries = [
        {"username": owner.username, "password": "x" * 20, "code": "000000"},
        {"username": owner.username, "password": owner.password, "code": used},
        {"username": "nobody00", "password": "x" * 20, "code": "000000"},
        {"username": "' OR '1'='1", "password": "x" * 20, "code": "000000"},
    ]
    answers = [door("POST", "/sessions", None, json=body) for body in tries]
    assert {refused(answer, 401, 429) for answer in answers} <= {"sign-in-refused", "too-many-attempts", "too-many-requests"}
    assert answers[0].json() == answers[2].json()


# Identity


def test_an_identity_sent_from_outside_is_stripped(doubled: Scene, door: Door, place: Place) -> None:
    actor = Actor(
        principal=Principal.PERSON,
        user_id=UUID(doubled.owner.user_id),
        username=doubled.owner.username,
        session_id=UUID(doubled.owner.session_id),
        cluster_roles=frozenset({ClusterRole.ADMINISTRATOR}),
        project_id=UUID(place.project),
        role=Role.DATA_OWNER,
    )
    claimed = write_identity(actor)
    for name in (IDENTITY_HEADER, IDENTITY_HEADER.lower(), "HORTUS-IDENTITY", "Hortus_Identity"):
        headers = {name: claimed, "Hortus-Request": NOWHERE, "traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
        assert door("GET", "/users/me", doubled.scientist, headers=headers).json()["user_id"] == doubled.scientist.user_id
        assert door("GET", place.path, doubled.scientist, headers=headers).json()["role"] == "data_scientist"
        assert refused(door("GET", f"{place.files}/table.csv", doubled.scientist, headers=headers), 403) == "role-may-not"
        assert refused(door("GET", "/users", doubled.scientist, headers=headers), 403) == "role-may-not"
        assert refused(door("GET", "/users/me", None, headers=headers), 401) == "not-signed-in"
        hop = headers | {"Connection": f"close, {IDENTITY_HEADER}"}
        assert door("GET", place.path, doubled.scientist, headers=hop).json()["role"] == "data_scientist"


def connected(port: int, context: ssl.SSLContext, request: bytes) -> bytes:
    """What a service answers on its own port; raises OSError (TLS's included) when it does not."""
    with (
        socket.create_connection(("localhost", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        secure.sendall(request)
        received = b""
        while piece := secure.recv(4096):
            received += piece
            if b"\r\n\r\n" in received:
                break
        return received


@pytest.mark.parametrize("service", [str(service) for service in Service])
def test_a_services_own_port_is_closed_to_everybody_but_the_gateway(doubled: Scene, place: Place, service: str) -> None:
    suite = doubled.suite
    port = suite._ports[f"{service}-1"]
    forged = write_identity(Actor(principal=Principal.PERSON, user_id=UUID(doubled.owner.user_id), cluster_roles=frozenset(ClusterRole)))
    request = f"GET {API}/users HTTP/1.1\r\nHost: localhost\r\n{IDENTITY_HEADER}: {forged}\r\n\r\n".encode()
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trusting.load_verify_locations(suite.pki.services_anchor)
    assert said(port, trusting, request) == b"", "without a certificate the handshake fails"
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    old.load_verify_locations(suite.pki.services_anchor)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match=r"(?i)version|reset|eof"):
        connected(port, old, request)
    # A sibling is a service, too, and not one that this service takes requests from: closed right after the handshake. At ca's there is
    # one door for siblings, where certificates are renewed, and no other opens.
    sibling = next(str(other) for other in Service if str(other) != service)
    for name in (f"{sibling}-1", f"{service}-2"):
        answer = said(port, tls.client_context(suite.home.tls_folder(name)), request)
        assert answer.startswith(b"HTTP/1.1 404") if service == Service.CA else answer == b""
    runner = connected(port, tls.client_context(suite.home.tls_folder(RUNNER)), request)
    assert runner.startswith(b"HTTP/1.1 404"), "the runner's identity reaches the operators' doors alone"


def said(port: int, context: ssl.SSLContext, request: bytes) -> bytes:
    """What a port answers; nothing where the connection is refused or closed."""
    try:
        return connected(port, context, request)
    except TimeoutError:
        raise
    except OSError:
        return b""


def test_a_certificate_of_another_issuer_is_refused_in_the_handshake(doubled: Scene, tmp_path: Path) -> None:
    foreign = Pki.create(Home(tmp_path / "foreign"), announce=lambda _: None)
    foreign.issue_service_certificate("gateway", tmp_path / "gateway")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(doubled.suite.pki.services_anchor)
    context.load_verify_locations(doubled.suite.root)
    context.load_cert_chain(tmp_path / "gateway" / "cert.pem", tmp_path / "gateway" / "key.pem")
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for port in (
        doubled.suite._ports["projects-1"],
        doubled.suite._ports["gateway-1"],
        urlsplit(doubled.suite.certificate_addresses[0]).port,
    ):
        context.check_hostname = False
        assert said(port or 0, context, request) == b""


# Requests that two readers could read differently


def raw(scene: Scene, request: bytes, *, half: bool = False, gateway: int = 0) -> list[tuple[int, dict[str, str], bytes]]:
    """Send bytes to a gateway and read every answer until it closes, or stays silent for a moment; ``half`` closes the sending side."""
    context = ssl.create_default_context(cafile=str(scene.suite.root))
    received = b""
    plain = socket.create_connection(("localhost", urlsplit(scene.suite.addresses[gateway]).port), timeout=20)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as secure:
        secure.sendall(request)
        if half:
            return []
        with suppress(TimeoutError, ConnectionResetError):
            while piece := secure.recv(65536):
                received += piece
                if answered(received):
                    secure.settimeout(SILENCE_SECONDS)
    return answers_in(received)


def answers_in(received: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    found = []
    while b"\r\n\r\n" in received:
        head, _, rest = received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        found.append((int(lines[0].split()[1]), headers, rest[:length]))
        received = rest[length:]
    return found


def answered(received: bytes) -> bool:
    found = answers_in(received)
    return bool(found) and len(found[-1][2]) == int(found[-1][1].get("content-length", 0))


def test_a_request_that_two_readers_could_read_differently_smuggles_nothing(doubled: Scene, place: Place) -> None:
    name = f"smuggled_{secrets.token_hex(5)}"
    body = json.dumps({"name": name}).encode()
    authorization = f"Authorization: Bearer {doubled.owner.token}".encode()
    inner = b"POST %s/projects HTTP/1.1\r\nHost: localhost\r\n%s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        API.encode(),
        authorization,
        len(body),
        body,
    )
    start = b"POST %s/projects HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (API.encode(), authorization)
    chunked = b"0\r\n\r\n"
    attempts = {
        "length and chunked": start
        + b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % (len(chunked) + len(inner))
        + chunked
        + inner,
        "chunked and length": start + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + chunked + inner,
        "two lengths": start + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner,
        "a list of lengths": start + b"Content-Length: 0, %d\r\n\r\n" % len(inner) + inner,
        "odd encoding": start + b"Transfer-Encoding: xchunked\r\n\r\n" + chunked + inner,
        "two encodings": start + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked + inner,
        "encoding twice": start + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + chunked + inner,
        "space before the colon": start
        + b"Transfer-Encoding : chunked\r\nContent-Length: %d\r\n\r\n" % (len(chunked) + len(inner))
        + chunked
        + inner,
        "tab in the name": start + b"Transfer\tEncoding: chunked\r\nContent-Length: 0\r\n\r\n" + inner,
        "folded header": start
        + b"Transfer-Encoding:\r\n chunked\r\nContent-Length: %d\r\n\r\n" % (len(chunked) + len(inner))
        + chunked
        + inner,
        "bare line feed": start + b"Content-Length: 0\nTransfer-Encoding: chunked\r\n\r\n" + chunked + inner,
        "bare carriage return": start + b"X: a\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + chunked + inner,
        "NUL in a header": start + b"X: a\x00b\r\nContent-Length: 0\r\n\r\n" + inner,
        "odd chunk size": start + b"Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + inner,
        "negative chunk size": start + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + inner,
        "huge chunk size": start + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n\r\n" + inner,
        "upgrade": start + b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n" + inner,
        "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + inner,
        "no protocol": b"\x16\x03\x01\x00\x05hello" + inner,
        "absolute form": b"POST https://projects%s/projects HTTP/1.1\r\nHost: localhost\r\n%s\r\nContent-Length: 0\r\n\r\n"
        % (API.encode(), authorization),
        "long header": start + b"X: " + b"a" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n" + inner,
        "many headers": start
        + b"".join(b"X-%d: %s\r\n" % (number, b"a" * 100) for number in range(1000))
        + b"Content-Length: 0\r\n\r\n"
        + inner,
    }
    with nothing_stored(doubled, Service.PROJECTS):
        for what, attempt in attempts.items():
            statuses = [status for status, _, _ in raw(doubled, attempt)]
            assert statuses, f"{what} is answered"
            assert len(statuses) == 1, (what, statuses)
            assert 400 <= statuses[0] < 500, (what, statuses)
    assert name not in {project["name"] for project in doubled.owner.at(1).projects.list()}
    doubled.until_ready()


def test_an_ambiguous_request_to_upload_stores_nothing(doubled: Scene, place: Place) -> None:
    start = f"PUT {API}{place.files}/x.csv HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {doubled.owner.token}\r\n".encode()
    with nothing_stored(doubled, Service.DATASETS):
        for framing in (
            b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        ):
            answers = raw(doubled, start + framing)
            assert [status for status, _, _ in answers] == [400]


def test_hortus_after_that_is_nonsense_is_refused_and_one_of_the_future_is_not_waited_for_forever(
    doubled: Scene, door: Door, place: Place
) -> None:
    for after in ("nonsense", "a:b", "a:b:c", "a:b:c:d", "memberships:x:-", ", ".join(["a:b:1"] * 100), "x" * 9000, "memberships:%ff:1"):
        answer = door("GET", place.path, doubled.owner, headers={"Hortus-After": after})
        assert answer.status_code == 200 or refused(answer, 400, 431), after
    context = ssl.create_default_context(cafile=str(doubled.suite.root))
    with httpx2.Client(base_url=doubled.suite.address, verify=context, trust_env=False, timeout=30) as client:
        key = f"{place.project}%3A{doubled.owner.user_id}"
        began = time.monotonic()
        headers = {"Authorization": f"Bearer {doubled.owner.token}", "Hortus-After": f"memberships:{key}:999999"}
        answer = client.get(API + place.path, headers=headers)
        assert refused(answer, 503) == "cannot-decide"
        assert answer.headers["retry-after"] == "1"
        assert time.monotonic() - began < 10


# What is left behind


def test_every_refusal_is_in_the_ledger_with_its_reason(doubled: Scene, door: Door) -> None:
    path = f"/projects/{uuid7()}"
    refused(door("GET", path, doubled.scientist), 404)

    def recorded() -> list[str]:
        found = doubled.auditor.at(0).audit.records(actor=doubled.scientist.user_id, outcome="refused", project_id=path.rpartition("/")[2])
        return [str(record["reason"]) for record in found]

    until(lambda: recorded() == ["not-a-member"], "the refusal is in the ledger")


def test_nothing_secret_is_in_any_log_and_nowhere_in_the_ledger(doubled: Scene) -> None:
    spoken = [secret for person in doubled.people for secret in person.secrets]
    codes = [code for person in doubled.people for code in person.codes]
    assert len(spoken) >= 4 * len(doubled.people)
    logs = doubled.logs()
    assert {"gateway-1.log", "auth-1.log", "projects-2.log", "postgres.log", "kafka.log"} <= set(logs)
    ledger = b"".join(base64.b64decode(record["canonical"]) for record in doubled.auditor.at(0).audit.records())
    assert len(ledger) > 10_000
    for file, content in {**logs, "the ledger": ledger}.items():
        for secret in spoken:
            assert secret.encode() not in content, f"a secret is in {file}"
            assert hashlib.sha256(secret.encode()).hexdigest().encode() not in content
        for code in codes:
            # Not a part of a longer number, an id or a time.
            assert not re.search(rb"(?<![0-9a-fA-F.])" + code.encode() + rb"(?![0-9a-fA-F])", content), f"a one-time code is in {file}"
