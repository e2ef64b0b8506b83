"""The gateway beside nginx: requests a second and latency of one core through TLS, to the same upstream over mutual TLS.

``python -m bench.gateway [--seconds 6] [--runs 5]`` starts a real broker, positions on it every 100 ms, an nginx as the
trivial service (client certificates required), ``python -m gateway`` and an nginx as a TLS proxy. The two proxies run on the
first core, one at a time; everything else runs on the second. The gateway does all of its work: token, decision, registry,
spool with fsync, publishing to Kafka. Throughput is a closed loop of 32 connections (wrk); latency is an open loop whose
times count from the instant at which a request was due.

The ratio is given twice: by the clock (the headline), and by CPU-seconds of the proxy alone. nginx may be held up by the
service and the load generator, which share the other core, while the gateway is not: ``cpu_share`` says by how much the
clock flatters the gateway, and ``ratio_by_cpu`` does not flatter it.
"""

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric import ec
from uuid_utils.compat import uuid7

from bench._waiting import until
from chassis import bus, tls, tokens
from chassis.settings import ProcessSettings
from compose.local.kafka import Kafka
from compose.local.pki import Pki
from compose.local.ports import free_port
from contracts.events import TOPICS, Fact, Membership, Session, SigningKey, User, UserStatus
from contracts.policy import API
from contracts.roles import Role

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "bench" / "results" / "gateway.json"
CONNECTIONS = 32
A_TRANSACTION = 10_000  # records; all at once take a slow machine longer than a transaction may
OPEN_LOOP_RATE = 500
WRITERS = {"auth": ("users", "sessions", "credentials", "signing-keys"), "projects": ("memberships",), "ca": ("certificates",)}
TICKS = os.sysconf("SC_CLK_TCK")
BODY = '{"items":[],"next":null}'


def install() -> dict[str, str]:
    """The peer and the load tool, from Debian; where that is impossible, say so and end."""
    missing = [package for package, binary in (("nginx-light", "nginx"), ("wrk", "wrk")) if shutil.which(binary) is None]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-q", *missing], check=False, capture_output=True)
        missing = [package for package in missing if shutil.which(package.removesuffix("-light")) is None]
    if missing:
        sys.exit(f"This comparison needs {' and '.join(missing)}; install them (apt-get install nginx-light wrk) and run it again.")
    shown = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True).stderr
    return {"nginx": shown.strip().rpartition("/")[2], "python": sys.version.split()[0]}


def cores() -> tuple[int, int]:
    """The core of the proxies and the core of everything else."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


def pinned(core: int, *command: str) -> list[str]:
    return ["taskset", "-c", str(core), *command]


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its living children have used so far."""
    total = 0.0
    for each in [pid, *_children(pid)]:
        with suppress(FileNotFoundError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def _children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def nginx_configuration(folder: Path, server: str, upstream: str = "") -> Path:
    folder.mkdir()
    folder.chmod(0o755)
    place = folder / "nginx.conf"
    place.write_text(
        f"""user root; worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 75s; ssl_protocols TLSv1.3; ssl_session_tickets off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  {upstream}
  server {{ {server} }}
}}
"""
    )
    return place


@contextmanager
def running(core: int, *command: str, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(pinned(core, *command), **more)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Site:
    """Certificates, the trivial service, a broker with fresh positions, and somebody who has signed in."""

    def __init__(self, folder: Path, pki: Pki, kafka: Kafka) -> None:
        self.folder = folder
        self.pki = pki
        self.kafka = kafka
        self.upstream = free_port()
        self.project, self.user, self.session = uuid7(), uuid7(), uuid7()
        self.key = tokens.private_jwk(ec.generate_private_key(ec.SECP256R1()))
        self.chain = folder / "chain.pem"
        self.chain.write_bytes(pki.services_anchor.read_bytes() + pki.root.read_bytes())

    @property
    def path(self) -> str:
        """The door that is asked: a project of the caller."""
        return f"{API}/projects/{self.project}"

    def token(self) -> str:
        """An access token for the one person, good for five minutes."""
        return tokens.issue(self.key, "bench", self.user, self.session, datetime.now(UTC), timedelta(minutes=5))[0]

    def facts(self) -> list[Fact]:
        """What makes the one person a signed-in member."""
        now = datetime.now(UTC)
        public = {name: value for name, value in self.key.items() if name != "d"}
        return [
            SigningKey(version=1, key_id="bench", jwk=public, live=True),
            User(version=1, user_id=self.user, username="ada", status=UserStatus.ACTIVE, cluster_roles=frozenset()),
            Session(version=1, session_id=self.session, user_id=self.user, live=True, factor_at=now, expires_at=now + timedelta(hours=8)),
            Membership(
                version=1,
                project_id=self.project,
                user_id=self.user,
                username="ada",
                role=Role.DATA_OWNER,
                purpose="bench",
                starts_at=now - timedelta(hours=1),
                ends_at=now + timedelta(hours=8),
            ),
        ]

    def files(self, name: str) -> Path:
        """A part's certificate folder."""
        return self.pki.home.tls_folder(name)

    def settings(self, name: str) -> ProcessSettings:
        """How a writer of facts reaches the broker."""
        return ProcessSettings(service=name, tls_dir=self.files(name), kafka=self.kafka.bootstrap, state_dir=self.folder)

    def service(self) -> Path:
        """The configuration of the trivial service."""
        own = self.files("projects")
        return nginx_configuration(
            self.folder / "service",
            f"""listen 127.0.0.1:{self.upstream} ssl; ssl_certificate {own}/cert.pem; ssl_certificate_key {own}/key.pem;
            ssl_client_certificate {self.chain}; ssl_verify_client on; ssl_verify_depth 2; default_type application/json;
            location / {{ return 200 '{BODY}'; }}""",
        )

    def proxy(self, port: int) -> Path:
        """The configuration of nginx as the peer."""
        own = self.files("gateway")
        return nginx_configuration(
            self.folder / "proxy",
            f"""listen 127.0.0.1:{port} ssl; ssl_certificate {own}/cert.pem; ssl_certificate_key {own}/key.pem;
            location / {{ proxy_pass https://service; proxy_http_version 1.1; proxy_set_header Connection "";
              proxy_ssl_protocols TLSv1.3; proxy_ssl_certificate {own}/cert.pem; proxy_ssl_certificate_key {own}/key.pem;
              proxy_ssl_trusted_certificate {self.chain}; proxy_ssl_verify on; proxy_ssl_verify_depth 2; proxy_ssl_name localhost; }}""",
            f"upstream service {{ server 127.0.0.1:{self.upstream}; keepalive 64; keepalive_requests 1000000000; }}",
        )

    def environment(self, people: int) -> dict[str, str]:
        """The gateway's environment."""
        state = self.folder / "gateway"
        state.mkdir(exist_ok=True)
        return {
            **os.environ,
            "HORTUS_SERVICE": "gateway",
            "HORTUS_LISTEN": f"127.0.0.1:{free_port()}",
            "HORTUS_PEOPLE_LISTEN": f"127.0.0.1:{people}",
            "HORTUS_CERTIFICATE_LISTEN": f"127.0.0.1:{free_port()}",
            "HORTUS_TLS_DIR": str(self.files("gateway")),
            "HORTUS_KAFKA": self.kafka.bootstrap,
            "HORTUS_STATE_DIR": str(state),
            "HORTUS_UPSTREAMS": json.dumps({"projects": [f"https://localhost:{self.upstream}"]}),
            "HORTUS_CLIENT_ISSUERS": str(self.pki.client_issuers),
            "HORTUS_ROOT": str(self.pki.root),
        }


async def tell(site: Site, name: str, facts: list[Fact]) -> None:
    """One service's relay: its facts once, then positions, until cancelled."""
    producer = bus.producer(site.settings(name), f"relay.{name}")
    await producer.start()
    try:
        while True:
            at = datetime.now(UTC)
            await producer.begin_transaction()
            sent = []
            now, facts = facts[:A_TRANSACTION], facts[A_TRANSACTION:]
            for fact in now:
                made = bus.headers(fact.type, str(uuid7()), f"/{name}", fact.key, at.isoformat())
                sent.append(await producer.send(fact.topic.name, fact.model_dump_json().encode(), fact.key.encode(), headers=made))
            for topic in WRITERS[name] if not facts else ():
                for number in range(TOPICS[topic].partitions):
                    made = bus.headers(bus.POSITION, str(uuid7()), f"/{name}", "position", at.isoformat())
                    sent.append(await producer.send(topic, bus.position_record(at), bus.POSITION_KEY, partition=number, headers=made))
            await asyncio.gather(*sent)
            await producer.commit_transaction()
            await asyncio.sleep(0.0 if facts else 0.1)
    finally:
        await producer.stop()


async def until_served(port: int, request: bytes, context: ssl.SSLContext, seconds: float = 60.0) -> None:
    """Wait for the first good answer. Raises TimeoutError after ``seconds``."""

    async def served() -> bool:
        reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
        writer.write(request)
        status = await reader.readline()
        writer.close()
        return b" 200 " in status

    await until(served, seconds)


async def wrk(core: int, port: int, site: Site, seconds: int, proxy: int) -> dict[str, float]:
    """A closed loop of 32 connections: requests a second by the clock and by the proxy's CPU-second, and latencies in ms."""
    command = pinned(
        core,
        *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency", "-H", f"Authorization: Bearer {site.token()}"),
        f"https://localhost:{port}{site.path}",
    )
    used, began = cpu_seconds(proxy), time.monotonic()
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output = (await child.communicate())[0].decode()
    used, wall = cpu_seconds(proxy) - used, time.monotonic() - began
    if "Non-2xx" in output:
        raise RuntimeError(f"not every answer was a success: {output}")
    done = int(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
    return {
        "requests_per_s": float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1]),  # type: ignore[index]
        "requests_per_cpu_s": done / used,
        "cpu_share": used / wall,
        "p50_ms": _milliseconds(output, "50%"),
        "p99_ms": _milliseconds(output, "99%"),
    }


def _milliseconds(output: str, part: str) -> float:
    found = re.search(rf"{part}\s+([\d.]+)(us|ms|s)\b", output)
    assert found is not None
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


class OneRequest(asyncio.Protocol):
    """A connection that carries one request at a time, for the open loop."""

    def __init__(self, idle: asyncio.Queue["OneRequest"]) -> None:
        self.idle = idle
        self.due = 0.0
        self.latencies: list[float] = []
        self.transport: Any = None
        self.seen = b""

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def ask(self, request: bytes, due: float) -> None:
        """Send a request that was due at ``due``."""
        self.due = due
        self.seen = b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count the answer when it is whole."""
        self.seen += data
        if self.seen.endswith(BODY.encode()):
            assert self.seen.startswith(b"HTTP/1.1 200"), self.seen
            self.latencies.append((time.perf_counter() - self.due) * 1000)
            self.idle.put_nowait(self)


async def open_loop(port: int, request: bytes, context: ssl.SSLContext, seconds: float) -> dict[str, float]:
    """``OPEN_LOOP_RATE`` requests a second whether or not earlier ones were answered; latencies from when each was due, in ms."""
    loop = asyncio.get_running_loop()
    idle: asyncio.Queue[OneRequest] = asyncio.Queue()
    connections = []
    for _ in range(CONNECTIONS):
        _, connection = await loop.create_connection(lambda: OneRequest(idle), "localhost", port, ssl=context, server_hostname="localhost")
        connections.append(connection)
        idle.put_nowait(connection)
    for warming in range(2):
        for connection in [await idle.get() for _ in connections]:
            connection.latencies.clear()
            if warming == 0:
                connection.ask(request, time.perf_counter())
            else:
                idle.put_nowait(connection)
    began = time.perf_counter() + 0.1
    for number in range(int(OPEN_LOOP_RATE * seconds)):
        due = began + number / OPEN_LOOP_RATE
        if (ahead := due - time.perf_counter()) > 0:
            await asyncio.sleep(ahead)
        (await idle.get()).ask(request, due)
    for connection in [await idle.get() for _ in connections]:
        connection.transport.close()
    latencies = sorted(latency for connection in connections for latency in connection.latencies)
    return {"p50_ms": latencies[len(latencies) // 2], "p99_ms": latencies[len(latencies) * 99 // 100], "requests": float(len(latencies))}


async def measure(site: Site, runs: int, seconds: int, rest: int, ports: dict[str, int], pids: dict[str, int]) -> dict[str, Any]:
    context = ssl.create_default_context(cafile=str(site.pki.root))
    direct = tls.client_context(site.files("gateway"))
    closed: dict[str, list[dict[str, float]]] = {"gateway": [], "nginx": []}
    opened: dict[str, list[dict[str, float]]] = {"direct": [], "nginx": [], "gateway": []}
    for run in range(runs):
        for name in ("gateway", "nginx") if run % 2 else ("nginx", "gateway"):
            closed[name].append(await wrk(rest, ports[name], site, seconds, pids[name]))
            print(f"run {run + 1} {name:8}", " ".join(f"{key} {value:10.2f}" for key, value in closed[name][-1].items()), flush=True)
        for name in ("direct", "nginx", "gateway"):
            await quiet(site)
            request = _request(site)
            opened[name].append(await open_loop(ports[name], request, direct if name == "direct" else context, seconds / 2))
            print(f"run {run + 1} {name:8}", "open loop", opened[name][-1], flush=True)
    return {"closed_loop": closed, "open_loop": opened}


async def quiet(site: Site) -> None:
    """Wait until the gateway has published what the closed loop left behind."""
    spool = site.folder / "gateway" / "spool"

    async def published() -> bool:
        return len(list(spool.glob("records-*"))) <= 1

    await until(published, 60)


def _request(site: Site) -> bytes:
    return f"GET {site.path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {site.token()}\r\n\r\n".encode()


def headline(raw: dict[str, Any]) -> dict[str, float]:
    """The figures in one line: medians over the runs."""

    def middle(kind: str, name: str, key: str) -> float:
        return float(statistics.median(run[key] for run in raw[kind][name]))

    by_clock = middle("closed_loop", "gateway", "requests_per_s") / middle("closed_loop", "nginx", "requests_per_s")
    by_cpu = middle("closed_loop", "gateway", "requests_per_cpu_s") / middle("closed_loop", "nginx", "requests_per_cpu_s")
    return {
        "ratio_nginx_tls": round(by_clock, 3),
        "ratio_by_cpu": round(by_cpu, 3),
        "gateway_requests_per_s": round(middle("closed_loop", "gateway", "requests_per_s")),
        "nginx_requests_per_s": round(middle("closed_loop", "nginx", "requests_per_s")),
        "gateway_requests_per_cpu_s": round(middle("closed_loop", "gateway", "requests_per_cpu_s")),
        "nginx_requests_per_cpu_s": round(middle("closed_loop", "nginx", "requests_per_cpu_s")),
        "gateway_p50_ms": round(middle("open_loop", "gateway", "p50_ms"), 2),
        "gateway_p99_ms": round(middle("open_loop", "gateway", "p99_ms"), 2),
        "nginx_p99_ms": round(middle("open_loop", "nginx", "p99_ms"), 2),
        "added_p99_ms": round(middle("open_loop", "gateway", "p99_ms") - middle("open_loop", "direct", "p99_ms"), 2),
    }


async def run(arguments: argparse.Namespace, versions: dict[str, str], folder: Path) -> None:
    first, rest = cores()
    os.sched_setaffinity(0, {rest})
    pki = Pki.create(folder / "home")
    for name in ("gateway", "runner", *WRITERS):
        pki.issue_service_certificate(name, pki.home.tls_folder(name))
    kafka = Kafka(pki.home, pki)
    try:
        await asyncio.to_thread(kafka.start)
        kafka.apply_catalogue(TOPICS)
        site = Site(folder, pki, kafka)
        telling = [asyncio.create_task(tell(site, name, [fact for fact in site.facts() if fact.topic.owner == name])) for name in WRITERS]
        ports = {"direct": site.upstream, "gateway": free_port(), "nginx": free_port()}
        context = ssl.create_default_context(cafile=str(pki.root))
        command = (sys.executable, "-m", "gateway")
        with (
            running(rest, "nginx", "-c", str(site.service())),
            running(first, "nginx", "-c", str(site.proxy(ports["nginx"]))) as proxy,
            (folder / "gateway.log").open("wb") as log,
            running(first, *command, cwd=REPOSITORY, env=site.environment(ports["gateway"]), stderr=log) as gateway,
        ):
            for name in ("nginx", "gateway"):
                await until_served(ports[name], _request(site), context)
            raw = await measure(site, arguments.runs, arguments.seconds, rest, ports, {"gateway": gateway.pid, "nginx": proxy.pid})
        for task in telling:
            task.cancel()
        await asyncio.gather(*telling, return_exceptions=True)
    finally:
        await asyncio.to_thread(kafka.stop)
    result = headline(raw)
    setting = {
        "cores": {"proxies": first, "everything_else": rest, "of": os.cpu_count()},
        "load": {"closed_loop_connections": CONNECTIONS, "open_loop_per_s": OPEN_LOOP_RATE, "seconds": arguments.seconds},
        "load_average_at_the_end": os.getloadavg(),
        "tls": "1.3 on every leg, client certificate towards the service; the gateway's spool is synced, its records go to Kafka",
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"result": result, "versions": versions, "setting": setting, "raw": raw}, indent=1) + "\n")
    print(f"\n{'':28}{'gateway':>12}{'nginx':>12}")
    for title, key in (
        ("requests/s", "requests_per_s"),
        ("requests per CPU-second", "requests_per_cpu_s"),
        ("open loop p99, ms", "p99_ms"),
    ):
        print(f"{title:28}{result[f'gateway_{key}']:>12}{result[f'nginx_{key}']:>12}")
    print("RESULT " + json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=6, help="of each closed-loop run")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    versions = install()
    with tempfile.TemporaryDirectory(prefix="hortus-bench-") as folder:
        Path(folder).chmod(0o755)
        uvloop.run(run(arguments, versions, Path(folder)))


if __name__ == "__main__":
    main()
