"""The assembly of the gateway: two public ports and the operators' one, in one process."""

import asyncio
import contextlib
import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

from chassis import log, patience, tls
from chassis.projection import Projection
from chassis.renewal import Renewal
from contracts.events import SIGNING_KEYS, Fact
from contracts.policy import API
from gateway import protocol
from gateway.activity import ActivityPublisher
from gateway.answers import Page
from gateway.authenticate import Authenticator
from gateway.authority import TOPICS, Authority
from gateway.browser import Origins
from gateway.forward import Forwarder
from gateway.inflight import InFlight
from gateway.ledger import Ledger
from gateway.measures import Measures
from gateway.operators import Operators
from gateway.plane import Plane
from gateway.publish import Publisher, free_bytes
from gateway.settings import GatewaySettings
from gateway.spool import Spool

DRAIN_S = 5
RUNNER = "runner"
TRUST_S = 1.0
MOST_FILES = 65_536
LINKS = ("setup", "password-reset", "factor-enrolment")  # as letters name them; the one-time token is the fragment
OPENAPI = Path(__file__).parent.parent / "contracts" / "openapi.json"


class Server(uvicorn.Server):
    """A server whose process handles signals itself."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


class Gateway:
    """Everything that one gateway process holds."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.measures = Measures()
        self.projection = Projection(settings, TOPICS)
        self.spool = Spool(settings.state_dir / "spool")
        self.authority = Authority(self.projection, settings.step_up_s)
        self.activity = ActivityPublisher(settings, settings.source, settings.activity_s)
        self.in_flight = InFlight(self.authority, self.projection, self.measures.cut, self.activity.used)
        self.authenticator = Authenticator(settings.trust_domain, self.authority.signing_keys)
        self.projection.on_change(self._changed)
        self.projection.on_erased(lambda gone: self._changed(gone, gone))
        self.forwarder = Forwarder(settings.upstreams, tls.client_context(settings.tls_dir), settings.trust_domain)
        self.renewal = Renewal(settings, self.forwarder.retire)
        self.publisher = Publisher(settings, self.spool, settings.source)
        self.plane = Plane(
            projection=self.projection,
            authority=self.authority,
            authenticator=self.authenticator,
            forwarder=self.forwarder,
            in_flight=self.in_flight,
            ledger=Ledger(self.spool, settings.source),
            pages=_pages(settings, self.authority),
            origins=Origins(settings.origins),
            measures=self.measures,
        )
        self.measures.watch("hortus_gateway_in_flight", "Requests in flight", lambda: len(self.in_flight))
        self.measures.watch("hortus_gateway_unpublished", "Records on disk that Kafka has not acknowledged", lambda: self.publisher.behind)
        self.measures.watch("hortus_gateway_spool_free_bytes", "Room on the spool's disk", lambda: free_bytes(self.spool.folder))
        self.servers = self._servers()

    def _changed(self, old: Fact | None, new: Fact) -> None:
        if new.topic is SIGNING_KEYS:
            self.authenticator.forget_tokens()
        self.in_flight.heard(old, new)

    def _servers(self) -> list[uvicorn.Server]:
        settings = self.settings
        checks = [self.projection.missing, self.spool.missing, self.renewal.missing]
        operators = Operators(checks, self.measures, [self.renewal.warnings])
        runner = tls.protocol({tls.service_identity(settings.trust_domain, RUNNER)})
        people = tls.server_context(settings.tls_dir, ask=False)
        self.machines = tls.server_context(settings.tls_dir, client_issuers=settings.client_issuers)
        return [
            _server(self.plane, settings.people_listen, people, protocol.ClientProtocol),
            _server(self.plane, settings.certificate_listen, self.machines, protocol.ClientProtocol),
            _server(operators, settings.listen, tls.server_context(settings.tls_dir), runner),
        ]

    async def run(self) -> None:
        """Serve until ``stop`` is called; then drain for up to 5 s and leave nothing unrecorded."""
        tasks: list[asyncio.Task[Any]] = []
        try:
            await self.projection.start()
            tasks = [asyncio.create_task(work, name=name) for name, work in self._background()]
            async with asyncio.TaskGroup() as serving:
                for server in self.servers:
                    serving.create_task(server.serve())
        finally:
            await self.spool.close()
            await asyncio.gather(self.publisher.flush(2.0), self.activity.flush(2.0))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.projection.stop()
            self.forwarder.close()

    def stop(self) -> None:
        """Begin to drain."""
        for server in self.servers:
            server.should_exit = True

    def _background(self) -> list[tuple[str, Any]]:
        works = (
            ("publisher", self.publisher.run),
            ("activity", self.activity.run),
            ("sweep", self._sweep),
            ("trust", self._trust),
            ("renewal", self.renewal.run),
        )
        return [(name, patience.for_ever(work, name)) for name, work in works]

    async def _trust(self) -> None:
        """Once a second, see whether there are more issuers of clients: connections made from then on may show their certificates.

        An issuer that is gone from the file is trusted until the next start.
        """
        seen = None
        while True:
            now = self.settings.client_issuers.stat().st_mtime_ns
            if now != seen:
                self.machines.load_verify_locations(self.settings.client_issuers)
                seen = now
            await asyncio.sleep(TRUST_S)

    async def _sweep(self) -> None:
        """Once a second, look after connections and requests in flight."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            now = loop.time()
            self.forwarder.sweep(now)
            self.in_flight.sweep(now)
            for server in self.servers[:2]:
                protocol.sweep(server.server_state.connections, now)


def _server(app: Any, listen: str, context: Any, protocol_class: type) -> uvicorn.Server:
    host, _, port = listen.rpartition(":")
    config = uvicorn.Config(
        app,
        host=host,
        port=int(port),
        http=protocol_class,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=DRAIN_S,
        ssl_context_factory=lambda _config, _default: context,
    )
    return Server(config)


def _pages(settings: GatewaySettings, authority: Authority) -> dict[bytes, Page]:
    """What the gateway answers itself: the root to trust, keys that verify tokens, where links lead to, the description of the doors."""
    root = settings.root.read_bytes()

    def key_set() -> bytes:
        """RFC 7517 section 5."""
        keys = [{**jwk, "kid": key_id} for key_id, jwk in sorted(authority.signing_keys().items())]
        return json.dumps({"keys": keys}).encode()

    pages = {
        f"{API}/trust".encode(): Page("trust.read", b"application/x-pem-file", lambda: root),
        f"{API}/jwks.json".encode(): Page("jwks.read", b"application/jwk-set+json", key_set, known=True, cache=b"max-age=60"),
    }
    for link in LINKS:
        there = f"{API}/sign-in?link={link}".encode()
        pages[f"/{link}".encode()] = Page("link.open", b"text/plain", lambda: b"", location=there)
    if OPENAPI.exists():
        description = OPENAPI.read_bytes()
        pages[f"{API}/openapi.json".encode()] = Page("openapi.read", b"application/json", lambda: description)
    return pages


async def serve(settings: GatewaySettings) -> None:
    """Run a gateway until SIGTERM or SIGINT."""
    gateway = Gateway(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.stop)
    log.logger(__name__).info("starting", people=settings.people_listen, certificates=settings.certificate_listen)
    patience.collect_less()
    await gateway.run()


def main() -> None:
    """The gateway's process."""
    import uvloop  # noqa: PLC0415 - tools that import this module for its types need no event loop

    settings = GatewaySettings()
    log.set_up(settings.service, settings.instance, settings.log_level)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES), hard))
    uvloop.run(serve(settings))
