"""Signing in, beside Keycloak: what a sign-in costs outside of its password hash, and how many there are a second.

``python -m bench.auth [--seconds 8] [--runs 5]`` starts a real PostgreSQL (fsync on), fills it with accounts, and starts auth's
doors twice (``python -m chassis auth --only api``), with one and with two threads that hash. 16 clients, each with a connection of
its own over mutual TLS as the gateway has it, sign in one after the other with password and one-time code (closed loop), and renew
their sessions. Each sign-in takes another account, because a code counts once: all accounts have one password, hashed once and
copied, and a TOTP secret of their own. The load generator is pinned to the last core, nothing else is pinned.

- ``signin_ratio_ceiling`` is sign-ins a second over what the same thread does when it only hashes, measured in the same run: with one
  thread, so that of two cores one hashes and the other has everything else (doors, PostgreSQL, load); how many that are:
  ``signins_per_s_one_thread``. With two threads, as auth comes, all of that has to come out of the cores that hash:
  ``signin_ratio_two_threads``, and ``signins_per_s`` (with ``signin_p50_ms`` and ``signin_p99_ms``).
- ``signin_overhead_ms`` is the processor time of the auth process and of PostgreSQL for each sign-in, less that of a hash when
  nothing but hashing is done; ``signin_overhead_by_threads_ms`` takes off what the hashing threads really used.
- ``signin_overhead_alone_ms`` is the same less what the hashing thread used, for one client that signs in again and again.
- ``signin_overhead_small_hash_ms`` is the same at doors that differ in nothing but the hash, which is the smallest that Argon2 knows (8 KiB, one pass),
  with all clients again, so that these doors always have something to do. ``signin_overhead_seldom_ms`` is theirs when one client comes as often as at
  the doors with the real hash: what the processor's pauses cost, without any hash.
- ``signin_overhead_least_ms`` is that of ``bench._least_sign_in``, which has nothing of Hortus around its sign-in, computed as ``signin_overhead_ms`` is.
- The relay is not in it: it publishes afterwards, and ``bench.events`` measures it.
- Token and key checks are the gateway's own functions over a projection with 5,000 people, on one core: cold is the first look at a
  credential (its signature), warm any other.

Keycloak is run in development mode on its own database (H2) over plain HTTP, with its default hash and with ours; its sign-ins show a
password only, one person's. Token introspection by wrk.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import os
import secrets
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pyotp
import uvloop
from argon2 import PasswordHasher
from cryptography.hazmat.primitives.asymmetric import ec
from uuid_utils.compat import uuid7

from bench import _least_sign_in
from bench._keycloak import Keycloak, NotFetched, fetch
from bench._processor import database_processor
from bench._waiting import until
from chassis import app, db, migrate, patience, tls, tokens
from chassis.keys import new_key, read_key
from chassis.projection import Projection
from chassis.settings import ProcessSettings
from compose.local.pki import Pki
from compose.local.ports import free_port
from compose.local.postgres import Postgres
from contracts.events import ApiKey, Membership, Session, SigningKey, User, UserStatus
from contracts.policy import API, scopes
from contracts.roles import Role
from gateway.authenticate import Authenticator
from gateway.authority import TOPICS, Authority
from services.auth import vault

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "bench" / "results" / "auth.json"
CLIENTS = 16
ACCOUNTS = 8000
SMALL_KIB = 8
SMALL_PASSES = 1
PEOPLE = 5_000
PASSWORD = "correct horse battery staple"  # noqa: S105 - everybody's in the bench
REFRESH_COOKIE = "__Host-hortus-refresh"
OUR_HASH = (
    f"--spi-password-hashing--argon2--iterations={vault.PASSES}",
    f"--spi-password-hashing--argon2--memory={vault.MEMORY_KIB}",
    f"--spi-password-hashing--argon2--parallelism={vault.LANES}",
)
LUA = 'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/x-www-form-urlencoded"\nwrk.body = {body}\n'


# Accounts, and auth's doors


@dataclass
class Person:
    """An account that can sign in."""

    username: str
    totp: pyotp.TOTP


async def fill(
    dsn: str, safe: vault.Vault, initial: str = "u", passes: int = vault.PASSES, memory_kib: int = vault.MEMORY_KIB
) -> list[Person]:
    """Accounts with one password, hashed once, and each its own authenticator; their names begin with ``initial``."""
    hashed = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=vault.LANES).hash(PASSWORD)
    now = datetime.now(UTC)
    people: list[Person] = []
    users: list[tuple[Any, ...]] = []
    credentials: list[tuple[Any, ...]] = []
    for number in range(ACCOUNTS):
        user_id, secret, name = uuid7(), pyotp.random_base32(), f"{initial}{number:07d}"
        people.append(Person(name, pyotp.TOTP(secret)))
        users.append((user_id, name, f"{name}@example.org", "active", [], 1, now, now, now))
        credentials.append((user_id, hashed, safe.seal_totp(secret, user_id), -1, now, now))
    connection = await asyncpg.connect(dsn)
    columns = ["user_id", "username", "email", "status", "cluster_roles", "version", "created_at", "confirmed_at", "factor_enrolled_at"]
    await connection.copy_records_to_table("users", records=users, columns=columns)
    columns = ["user_id", "password_hash", "totp_sealed", "last_step", "totp_at", "password_at"]
    await connection.copy_records_to_table("credentials", records=credentials, columns=columns)
    await connection.execute("ANALYZE")
    await connection.close()
    return people


@dataclass
class Doors:
    """A process with auth's doors, reached as the gateway reaches it."""

    threads: int
    port: int
    child: subprocess.Popen[bytes]
    context: ssl.SSLContext
    began: float
    start_s: float = 0.0

    async def until_open(self) -> None:
        """Wait for the first answer; how long it took is kept."""
        await until(self._answers, 60)
        self.start_s = time.monotonic() - self.began

    async def _answers(self) -> bool:
        client = await Client.open(self.port, self.context)
        await client.post(f"{API}/sessions", {})
        client.close()
        return True


@contextlib.contextmanager
def doors(folder: Path, pki: Pki, threads: int, database_url: str, master_key: Path, kind: str = "") -> Iterator[Doors]:
    """Auth's doors as an operator starts them, with a number of threads that hash; ``kind``: what has a role in this file."""
    port = free_port()
    state = folder / f"auth-{threads}{kind}"
    state.mkdir()
    environment = {
        **os.environ,
        "HORTUS_SERVICE": "auth",
        "HORTUS_INSTANCE": str(threads),
        "HORTUS_LISTEN": f"127.0.0.1:{port}",
        "HORTUS_TLS_DIR": str(pki.home.tls_folder("auth")),
        "HORTUS_KAFKA": "127.0.0.1:1",
        "HORTUS_STATE_DIR": str(state),
        "HORTUS_DATABASE_URL": database_url,
        "HORTUS_MASTER_KEY_FILE": str(master_key),
        "HORTUS_SETUP_FILE": str(state / "setup"),
        "HORTUS_HASH_THREADS": str(threads),
        "HORTUS_LOG_LEVEL": "WARNING",
    }
    with state.with_suffix(".log").open("wb") as log:
        command = [sys.executable, "-m", *(("bench.auth", "--role", kind) if kind else ("chassis", "auth", "--only", "api"))]
        child = subprocess.Popen(command, env=environment, cwd=REPOSITORY, stdout=log, stderr=log)
    try:
        yield Doors(threads, port, child, tls.client_context(pki.home.tls_folder("gateway")), time.monotonic())
    finally:
        child.terminate()
        child.wait(15)


def small_doors() -> None:
    """Auth's doors with the smallest hash; only the accounts that were made with it can sign in there as they do elsewhere."""
    vault.PASSES, vault.MEMORY_KIB = SMALL_PASSES, SMALL_KIB
    app.main("auth", "api")


# The load


class Client:
    """One connection that carries one request at a time, with the address of its own that the gateway would name."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self.reader = reader
        self.writer = writer
        self.source = f"10.0.{number}.1"
        self.refresh = ""

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext | None, number: int = 0) -> "Client":
        """Connect."""
        return cls(*await asyncio.open_connection("localhost" if context else "127.0.0.1", port, ssl=context), number)

    def close(self) -> None:
        """Hang up."""
        self.writer.close()

    async def post(self, path: str, body: Any = None, *, form: str | None = None, cookie: str = "") -> tuple[int, list[str], bytes]:
        """Ask; the status, the header lines and the body of the answer."""
        data = form.encode() if form is not None else b"" if body is None else json.dumps(body).encode()
        kind = "application/x-www-form-urlencoded" if form is not None else "application/json"
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            f"Content-Type: {kind}",
            f"Content-Length: {len(data)}",
            f"Hortus-Request: {uuid7()}",
            f"Hortus-Source: {self.source}",
            *([f"Cookie: {cookie}"] if cookie else []),
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        first, *headers = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
        named = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in headers)}
        return int(first.split(" ")[1]), headers, await self.reader.readexactly(int(named.get("content-length", 0)))


Deed = Callable[[Client], Awaitable[None]]


async def connected(port: int, context: ssl.SSLContext | None, clients: int = CLIENTS) -> list[Client]:
    """As many connections as there are clients."""
    return [await Client.open(port, context, number) for number in range(clients)]


async def closed_loop(clients: list[Client], seconds: float, deed: Deed) -> dict[str, float]:
    """Each of the clients does ``deed`` again and again, and hangs up; how many a second, and how long one took in ms."""
    times: list[float] = []
    began = time.perf_counter()

    async def go(client: Client) -> None:
        while (start := time.perf_counter()) - began < seconds:
            await deed(client)
            times.append(1000 * (time.perf_counter() - start))

    await asyncio.gather(*[go(client) for client in clients])
    wall = time.perf_counter() - began
    for client in clients:
        client.close()
    times.sort()
    return {"per_s": len(times) / wall, "count": len(times), "p50_ms": statistics.median(times), "p99_ms": times[len(times) * 99 // 100]}


class Load:
    """What the clients do at auth's doors."""

    def __init__(self, people: list[Person]) -> None:
        self.people = people
        self.next = 0

    async def sign_in(self, client: Client) -> None:
        """Sign in with the next account, with password and one-time code."""
        person = self.people[self.next % len(self.people)]
        self.next += 1
        body = {"username": person.username, "password": PASSWORD, "code": person.totp.now()}
        status, headers, answer = await client.post(f"{API}/sessions", body)
        if status != 201:
            raise RuntimeError(f"{status}: {answer.decode()}")
        client.refresh = cookie_in(headers)

    def every(self, seconds: float) -> "Deed":
        """A sign-in that begins so many seconds after the one before."""
        due = time.perf_counter()

        async def sign_in(client: Client) -> None:
            nonlocal due
            due = max(due + seconds, time.perf_counter())
            await asyncio.sleep(due - time.perf_counter())
            await self.sign_in(client)

        return sign_in

    async def renew(self, client: Client) -> None:
        """Renew the client's session."""
        status, headers, answer = await client.post(f"{API}/sessions/refresh", cookie=f"{REFRESH_COOKIE}={client.refresh}")
        if status != 200:
            raise RuntimeError(f"{status}: {answer.decode()}")
        client.refresh = cookie_in(headers)


def cookie_in(headers: list[str]) -> str:
    """The refresh token that an answer sets."""
    start = f"set-cookie: {REFRESH_COOKIE}=".lower()
    return next((line[len(start) :].partition(";")[0] for line in headers if line.lower().startswith(start)), "")


# What it costs


def processor(of: psutil.Process) -> tuple[float, float]:
    """Seconds of the processor that a process has used, and those of its threads beside the main one, which hash."""
    times = of.cpu_times()
    beside = 0.0
    for thread in Path(f"/proc/{of.pid}/task").iterdir():
        if int(thread.name) != of.pid:
            beside += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return times.user + times.system, beside


async def measured(door: Doors, seconds: float, deed: Deed, before: Deed | None = None, clients_at_once: int = CLIENTS) -> dict[str, float]:
    """A closed loop at auth's doors with what it cost: ms of the processor for each, by who used them. ``before``: once, not counted."""
    process = psutil.Process(door.child.pid)
    clients = await connected(door.port, door.context, clients_at_once)
    for client in clients if before else ():
        await before(client)  # type: ignore[misc]
    (auth, threads), database = processor(process), database_processor()
    result = await closed_loop(clients, seconds, deed)
    after, database = processor(process), database_processor() - database
    each = 1000 / result["count"]
    return result | {
        "auth_cpu_ms": (after[0] - auth) * each,
        "hash_threads_cpu_ms": (after[1] - threads) * each,
        "postgres_cpu_ms": database * each,
        "auth_memory_mb": process.memory_info().rss / 1e6,
    }


async def hash_only(threads: int, seconds: float) -> dict[str, float]:
    """Nothing but hashing in the pool that auth has, asked by as many as the clients are: the ceiling."""
    passwords = vault.Passwords(threads)
    stored = await passwords.hash(PASSWORD)
    done = 0
    began, (_, used) = time.perf_counter(), processor(psutil.Process())

    async def go(number: int) -> None:
        nonlocal done
        while time.perf_counter() - began < seconds:
            await passwords.check(PASSWORD, stored, str(number))
            done += 1

    await asyncio.gather(*[go(number) for number in range(CLIENTS)])
    wall, (_, after) = time.perf_counter() - began, processor(psutil.Process())
    passwords.close()
    return {"per_s": done / wall, "cpu_ms": 1000 * (after - used) / done}


# The gateway's own checks


def checks(count: int = PEOPLE) -> dict[str, float]:
    """Token and key checks a second on one core: the first look at each credential, and looks at those that were seen before."""
    settings = ProcessSettings(service="gateway", tls_dir=REPOSITORY, kafka="127.0.0.1:1", state_dir=REPOSITORY)
    projection = Projection(settings, TOPICS)
    authority = Authority(projection)
    authenticator = Authenticator(settings.trust_domain, authority.signing_keys)
    private = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
    public = {name: value for name, value in private.items() if name != "d"}
    now = datetime.now(UTC)
    later = now + timedelta(hours=8)
    facts: list[Any] = [SigningKey(version=1, key_id="bench", jwk=public, live=True)]
    asked: dict[str, list[tuple[bytes, str]]] = {"token": [], "key": []}
    for number in range(count):
        user, session, project, key_id = uuid7(), uuid7(), uuid7(), uuid7()
        key = new_key(key_id)
        shown = read_key(key)
        assert shown is not None
        facts += [
            User(version=1, user_id=user, username=f"u{number:07d}", status=UserStatus.ACTIVE, cluster_roles=frozenset()),
            Session(version=1, session_id=session, user_id=user, live=True, factor_at=now, expires_at=later),
            ApiKey(
                version=1,
                key_id=key_id,
                user_id=user,
                secret_sha256=shown.secret_sha256,
                scopes=scopes(),
                expires_at=later,
                live=True,
            ),
            Membership(
                version=1,
                project_id=project,
                user_id=user,
                username=f"u{number:07d}",
                role=Role.DATA_OWNER,
                purpose="bench",
                starts_at=now - timedelta(hours=1),
                ends_at=later,
            ),
        ]
        token, _ = tokens.issue(private, "bench", user, session, now, timedelta(minutes=5))
        asked["token"].append((f"Bearer {token}".encode(), str(project)))
        asked["key"].append((f"Bearer {key}".encode(), str(project)))
    for fact in facts:
        old = projection.knowledge.apply(fact)
        for listener in projection.listeners:
            listener(old, fact)

    def look(credentials: list[tuple[bytes, str]]) -> float:
        used = time.process_time()
        for shown, project in credentials:
            credential = authenticator.credential(shown, None)
            standing = authority.standing(credential, project, time.time())
            if standing.actor.role is not Role.DATA_OWNER:
                raise RuntimeError("not known")
        return len(credentials) / (time.process_time() - used)

    results = {}
    for kind, credentials in asked.items():
        results[f"{kind}_cold_per_s"] = look(credentials)
        results[f"{kind}_warm_per_s"] = statistics.median(look(credentials) for _ in range(5))
    return results


# Keycloak


def install_wrk() -> bool:
    """Whether ``wrk`` is there, installed from Debian where that is possible."""
    if shutil.which("wrk") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", "wrk"], check=False, capture_output=True)
    return shutil.which("wrk") is not None


async def ask_keycloak(server: Keycloak, seconds: float) -> dict[str, float]:
    """Password sign-ins by as many clients as auth has."""

    async def sign_in(client: Client) -> None:
        status, _, answer = await client.post(server.token_path, form=server.sign_in_form)
        if status != 200:
            raise RuntimeError(f"{status}: {answer.decode()}")

    used = sum(sum(process.cpu_times()[:2]) for process in server.processes())
    result = await closed_loop(await connected(server.port, None), seconds, sign_in)
    used = sum(sum(process.cpu_times()[:2]) for process in server.processes()) - used
    return result | {"cpu_ms": 1000 * used / result["count"], "memory_mb": server.memory_mb()}


async def introspect(server: Keycloak, folder: Path, seconds: float, core: int) -> dict[str, float]:
    """Token checks, by wrk on the load generator's core."""
    script = folder / "introspect.lua"
    script.write_text(LUA.format(body=json.dumps(server.introspection_form())))
    address = f"http://127.0.0.1:{server.port}{server.token_path}/introspect"
    command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{CLIENTS}", f"-d{max(1, round(seconds))}s", "-s", str(script), address]
    used = sum(sum(process.cpu_times()[:2]) for process in server.processes())
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output = (await child.communicate())[0].decode()
    used = sum(sum(process.cpu_times()[:2]) for process in server.processes()) - used
    if "Non-2xx" in output:
        raise RuntimeError(output)
    done = int(output.split(" requests in")[0].split()[-1])
    return {"per_s": float(output.split("Requests/sec:")[1].split()[0]), "per_cpu_s": done / used}


@contextlib.contextmanager
def peers(folder: Path, *, wanted: bool) -> Iterator[tuple[dict[str, Keycloak], str]]:
    """Keycloak with its own hash and with ours, and a sentence where it cannot be had."""
    servers: dict[str, Keycloak] = {}
    if not wanted:
        yield servers, "not asked for"
        return
    try:
        archive = fetch()
    except NotFetched as error:
        yield servers, str(error)
        return
    try:
        for name, options in (("its hash", ()), ("our hash", OUR_HASH)):
            servers[name] = Keycloak(archive, folder / f"keycloak-{len(servers)}", *options)
            servers[name].start()
            if not options:  # the first start builds, the second is like all later ones
                servers[name].stop()
                servers[name].start()
            servers[name].set_up()
        yield servers, ""
    finally:
        for server in servers.values():
            server.stop()


# Everything in turn


async def role(name: str, *more: str) -> dict[str, float]:
    """Run a part of this file in a process of its own; its figures."""
    command = [sys.executable, "-m", "bench.auth", "--role", name, *more]
    everywhere = set(range(os.cpu_count() or 1))
    child = await asyncio.create_subprocess_exec(
        *command, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, everywhere)
    )
    output = (await child.communicate())[0]
    if child.returncode:
        raise RuntimeError(f"{name} ended with {child.returncode}")
    figures: dict[str, float] = json.loads(output)
    return figures


async def one_run(
    number: int, opened: list[tuple[Doors, Load]], servers: dict[str, Keycloak], seconds: float, place: tuple[Path, int]
) -> dict[str, Any]:
    """Each measurement once, auth's and Keycloak's in turn; the last two of the doors have the smallest hash, and nothing of Hortus."""
    result: dict[str, Any] = {"run": number}
    *real, (small, light), (least, load) = opened
    for door, _ in real if number % 2 else reversed(real):
        ceiling = await role("hash", "--threads", str(door.threads), "--seconds", str(seconds))
        signed = await measured(door, seconds, load.sign_in)
        result[f"threads_{door.threads}"] = {"ceiling": ceiling, "sign_in": signed}
        say(number, f"sign-in, {door.threads} hashing", signed | {"ceiling_per_s": ceiling["per_s"], "hash_cpu_ms": ceiling["cpu_ms"]})
    result["alone"] = await measured(real[0][0], seconds / 2, load.sign_in, clients_at_once=1)
    say(number, "sign-in, one client", result["alone"])
    result["small_hash"] = await measured(small, seconds / 2, light.sign_in)
    say(number, "sign-in, smallest hash", result["small_hash"])
    seldom = light.every(1 / result["alone"]["per_s"])
    result["seldom"] = await measured(small, seconds / 2, seldom, clients_at_once=1)
    say(number, "the same, seldom", result["seldom"])
    result["least"] = await measured(least, seconds, load.sign_in)
    say(number, "sign-in, the least", result["least"])
    result["refresh"] = await measured(real[-1][0], seconds / 2, load.renew, load.sign_in)
    say(number, "refresh", result["refresh"])
    result["checks"] = await role("checks")
    say(number, "checks", result["checks"])
    for name, server in servers.items():
        result[f"keycloak, {name}"] = await ask_keycloak(server, seconds)
        say(number, f"Keycloak, {name}", result[f"keycloak, {name}"])
    if servers and shutil.which("wrk"):
        result["introspection"] = await introspect(servers["its hash"], place[0], seconds / 2, place[1])
        say(number, "introspection", result["introspection"])
    return result


def say(number: int, what: str, figures: dict[str, float]) -> None:
    """A line for people who watch."""
    print(f"run {number + 1}  {what:22}", "  ".join(f"{name} {value:,.2f}" for name, value in figures.items()), flush=True)


def headline(runs: list[dict[str, Any]], start_s: float) -> dict[str, float]:
    """The figures in one line: medians over the runs; each sign-in is compared with the ceiling and the hash of its own run."""

    def middle(get: Callable[[dict[str, Any]], float]) -> float:
        return float(statistics.median(get(run) for run in runs))

    def overhead(run: dict[str, Any], less: str) -> float:
        part = run["threads_1"]
        hashed = part["ceiling"]["cpu_ms"] if less == "ceiling" else part["sign_in"]["hash_threads_cpu_ms"]
        return float(part["sign_in"]["auth_cpu_ms"] + part["sign_in"]["postgres_cpu_ms"] - hashed)

    def beside(part: dict[str, Any]) -> float:
        return float(part["auth_cpu_ms"] + part["postgres_cpu_ms"] - part["hash_threads_cpu_ms"])

    figures = {
        "signin_overhead_ms": round(middle(lambda run: overhead(run, "ceiling")), 2),
        "signin_overhead_by_threads_ms": round(middle(lambda run: overhead(run, "threads")), 2),
        "signin_overhead_alone_ms": round(middle(lambda run: beside(run["alone"])), 2),
        "signin_overhead_small_hash_ms": round(middle(lambda run: beside(run["small_hash"])), 2),
        "signin_overhead_seldom_ms": round(middle(lambda run: beside(run["seldom"])), 2),
        "signin_overhead_least_ms": round(
            middle(
                lambda run: run["least"]["auth_cpu_ms"] + run["least"]["postgres_cpu_ms"] - run["threads_1"]["ceiling"]["cpu_ms"],
            ),
            2,
        ),
        "signins_per_s_one_thread": round(middle(lambda run: run["threads_1"]["sign_in"]["per_s"]), 1),
        "signin_ratio_ceiling": round(middle(lambda run: run["threads_1"]["sign_in"]["per_s"] / run["threads_1"]["ceiling"]["per_s"]), 3),
        "signins_per_s": round(middle(lambda run: run["threads_2"]["sign_in"]["per_s"]), 1),
        "signin_ratio_two_threads": round(
            middle(lambda run: run["threads_2"]["sign_in"]["per_s"] / run["threads_2"]["ceiling"]["per_s"]), 3
        ),
        "hash_cpu_ms": round(middle(lambda run: run["threads_1"]["ceiling"]["cpu_ms"]), 2),
        "signin_p50_ms": round(middle(lambda run: run["threads_2"]["sign_in"]["p50_ms"]), 1),
        "signin_p99_ms": round(middle(lambda run: run["threads_2"]["sign_in"]["p99_ms"]), 1),
        "refreshes_per_s": round(middle(lambda run: run["refresh"]["per_s"])),
        "refresh_p99_ms": round(middle(lambda run: run["refresh"]["p99_ms"]), 1),
        "token_checks_per_s_core": round(middle(lambda run: run["checks"]["token_warm_per_s"])),
        "token_checks_cold_per_s_core": round(middle(lambda run: run["checks"]["token_cold_per_s"])),
        "key_checks_per_s_core": round(middle(lambda run: run["checks"]["key_warm_per_s"])),
        "key_checks_cold_per_s_core": round(middle(lambda run: run["checks"]["key_cold_per_s"])),
        "auth_memory_mb": round(middle(lambda run: run["threads_2"]["sign_in"]["auth_memory_mb"])),
        "auth_start_s": round(start_s, 1),
    }
    for name, key in (("its hash", "keycloak"), ("our hash", "keycloak_our_hash")):
        if f"keycloak, {name}" in runs[0]:
            figures[f"{key}_signins_per_s"] = round(middle(lambda run, name=name: run[f"keycloak, {name}"]["per_s"]), 1)  # type: ignore[misc]
            figures[f"{key}_signin_cpu_ms"] = round(middle(lambda run, name=name: run[f"keycloak, {name}"]["cpu_ms"]), 1)  # type: ignore[misc]
            figures[f"{key}_memory_mb"] = round(middle(lambda run, name=name: run[f"keycloak, {name}"]["memory_mb"]))  # type: ignore[misc]
    if "introspection" in runs[0]:
        figures["keycloak_introspections_per_s"] = round(middle(lambda run: run["introspection"]["per_s"]))
        figures["keycloak_introspections_per_cpu_s"] = round(middle(lambda run: run["introspection"]["per_cpu_s"]))
    return figures


async def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Start everything, measure, stop everything, write the results."""
    core = max(os.sched_getaffinity(0))
    mine = asyncio.current_task()
    if mine is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, mine.cancel)  # so that everything is stopped then, too
    pki = Pki.create(folder / "home")
    for name in ("auth", "gateway"):
        pki.issue_service_certificate(name, pki.home.tls_folder(name))
    master_key = folder / "master.key"
    key = secrets.token_bytes(32)
    master_key.write_text(base64.urlsafe_b64encode(key).decode())
    master_key.chmod(0o600)
    wrk = install_wrk()
    postgres = Postgres(pki.home, fsync=True)
    try:
        postgres.start()
        url, owner = await asyncio.to_thread(postgres.provision, "auth")
        await asyncio.to_thread(migrate.migrate, "auth", owner)
        dsn = db.plain_dsn(url)
        load = Load(await fill(dsn, vault.Vault(key)))
        light = Load(await fill(dsn, vault.Vault(key), "s", SMALL_PASSES, SMALL_KIB))
        with contextlib.ExitStack() as stack:
            opened = [
                (stack.enter_context(doors(folder, pki, 1, url, master_key)), load),
                (stack.enter_context(doors(folder, pki, 2, url, master_key)), load),
                (stack.enter_context(doors(folder, pki, 1, url, master_key, "small-doors")), light),
                (stack.enter_context(doors(folder, pki, 1, url, master_key, "least")), load),
            ]
            for door, _ in opened:
                await door.until_open()
            servers, why_not = stack.enter_context(peers(folder, wanted=not arguments.no_peer))
            starts = {name: server.start_s for name, server in servers.items()}
            hashes = {name: server.hash_in_use() for name, server in servers.items()}
            idle = {name: server.memory_mb() for name, server in servers.items()}
            print(f"Keycloak: {why_not or starts}", flush=True)
            os.sched_setaffinity(0, {core})
            for door, people in opened:
                await closed_loop(await connected(door.port, door.context), 2, people.sign_in)
            for server in servers.values():
                await ask_keycloak(server, arguments.seconds)
            runs = [await one_run(number, opened, servers, arguments.seconds, (folder, core)) for number in range(arguments.runs)]
    finally:
        postgres.stop()
    result = headline(runs, opened[0][0].start_s)
    setting = {
        "cores": os.cpu_count(),
        "load": {"clients": CLIENTS, "closed_loop_s": arguments.seconds, "pinned_to_core": core, "accounts": ACCOUNTS},
        "hash": {"argon2id": {"passes": vault.PASSES, "memory_kib": vault.MEMORY_KIB, "lanes": vault.LANES}, "keycloak": hashes},
        "durability": "PostgreSQL with fsync; Keycloak's H2 as it comes",
        "tls": "auth: 1.3 with client certificates; Keycloak: none",
        "keycloak": {"not_measured": why_not, "starts_s": starts, "memory_mb_idle": idle, "wrk": wrk},
        "load_average_at_the_end": os.getloadavg(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"result": result, "setting": setting, "runs": runs}, indent=1) + "\n")
    for name, value in result.items():
        print(f"{name:36}{value:>12,}")
    print("RESULT " + json.dumps(result))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.auth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each closed loop")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-peer", action="store_true", help="leave Keycloak out")
    parser.add_argument("--role", choices=["hash", "checks", "small-doors", "least"], help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.role == "small-doors":
        small_doors()
        return
    if arguments.role == "least":
        _least_sign_in.main()
        return
    patience.collect_less()
    if arguments.role == "hash":
        print(json.dumps(uvloop.run(hash_only(arguments.threads, arguments.seconds))))
        return
    if arguments.role == "checks":
        print(json.dumps(checks()))
        return
    with tempfile.TemporaryDirectory(prefix="hortus-bench-") as folder:
        Path(folder).chmod(0o711)
        uvloop.run(run(arguments, Path(folder)))


if __name__ == "__main__":
    main()
