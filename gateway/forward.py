"""The way to the services: replicas in turn, their idle connections kept, over mutual TLS with a checked identity."""

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from chassis import tls
from chassis.errors import Problem
from chassis.log import logger
from gateway.connection import Connection, UpstreamFailed, UpstreamTimeout

log = logger(__name__)
CONNECT_S = 2.0
IDLE_S = 20.0
DEAD_S = 1.0
YOUTH = 0.75
"""The part of what was left of a service's certificate, after which a connection made with it is not used again."""
MAX_CONNECTIONS = 512


class UpstreamUnavailable(Problem):
    """No replica of the service could be reached."""

    status = 503
    title = "The service cannot be reached at this moment"


class ReplicaFull(Exception):
    """A replica has as many connections as one may; it lives, and has room again when the next exchange ends."""


class Replica:
    """One address of a service: its idle connections, and whether it is known to be dead."""

    def __init__(self, service: str, url: str, context: ssl.SSLContext, identity: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or not parts.port:
            raise ValueError(f"the address of {service} must be https://host:port")
        self.name = f"{service} at {parts.hostname}:{parts.port}"
        self.host = parts.hostname
        self.port = parts.port
        self.host_line = f"host: {parts.hostname}:{parts.port}\r\n".encode()
        self.context = context
        self.identity = identity
        self.idle: list[Connection] = []
        self.busy: set[Connection] = set()
        self.opening = 0
        self.dead_until = 0.0

    async def connect(self) -> Connection:
        """A new connection whose peer is the service that it should be. Raises ReplicaFull, OSError or TimeoutError."""
        loop = asyncio.get_running_loop()
        if len(self.busy) + self.opening >= MAX_CONNECTIONS:
            raise ReplicaFull
        self.opening += 1
        try:
            transport, connection = await asyncio.wait_for(
                loop.create_connection(lambda: Connection(self), self.host, self.port, ssl=self.context, server_hostname=self.host),
                CONNECT_S,
            )
        finally:
            self.opening -= 1
        der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        peer = tls.spiffe_of(der) if der else None
        if peer != self.identity:
            transport.abort()
            log.error("an upstream is not who it should be", upstream=self.name, expected=self.identity, peer=peer or "")
            raise ConnectionRefusedError("another identity")
        connection.retires = loop.time() + (tls.ends_at(der) - time.time()) * YOUTH if der else 0.0
        return connection

    def retire(self) -> None:
        """No connection that is there by now carries a further exchange: this process shows another certificate."""
        for connection in self.busy:
            connection.retires = 0.0
        while self.idle:
            self.idle.pop().close()

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self.busy.discard(connection)
        if connection in self.idle:
            self.idle.remove(connection)

    def sweep(self, now: float) -> None:
        """Close what has been idle for too long, and end exchanges whose answer is overdue. ``now`` is the loop's time."""
        for connection in [kept for kept in self.idle if now - kept.idle_since > IDLE_S]:
            self.idle.remove(connection)
            connection.close()
        for connection in [running for running in self.busy if 0.0 < running.deadline < now]:
            connection.fail(UpstreamTimeout())


class Upstream:
    """One service: its replicas in turn, the dead ones skipped."""

    def __init__(self, service: str, replicas: Sequence[Replica]) -> None:
        if not replicas:
            raise ValueError(f"the service {service} has no address")
        self.service = service
        self.replicas = list(replicas)
        self._turn = 0

    def idle(self) -> Connection | None:
        """Move on to the next living replica; an open connection of it that waits for work, None when it has none."""
        replica = self._move_on()
        while replica.idle:
            connection = replica.idle.pop()
            if connection.usable:
                return connection
            connection.close()
        return None

    async def connect(self) -> Connection:
        """A new connection, to the replica that ``idle`` moved to or the next one that takes it. Raises UpstreamUnavailable."""
        for attempt in range(len(self.replicas)):
            replica = self._move_on() if attempt else self.replicas[self._turn]
            try:
                return await replica.connect()
            except ReplicaFull:
                log.warning("a replica has as many connections as one may", upstream=replica.name)
            except (OSError, TimeoutError) as error:
                replica.dead_until = asyncio.get_running_loop().time() + DEAD_S
                log.warning("an upstream cannot be reached", upstream=replica.name, error=type(error).__name__)
        raise UpstreamUnavailable(retry_after=1)

    def _move_on(self) -> Replica:
        replicas = self.replicas
        if len(replicas) == 1:
            return replicas[0]
        now = asyncio.get_running_loop().time()
        for _ in replicas:
            self._turn = (self._turn + 1) % len(replicas)
            if replicas[self._turn].dead_until <= now:
                return replicas[self._turn]
        self._turn = (self._turn + 1) % len(replicas)
        return replicas[self._turn]


class Forwarder:
    """All services, by name."""

    def __init__(self, upstreams: Mapping[str, Sequence[str]], context: ssl.SSLContext, trust_domain: str) -> None:
        self._upstreams = {
            service: Upstream(
                service, [Replica(service, address, context, tls.service_identity(trust_domain, service)) for address in addresses]
            )
            for service, addresses in upstreams.items()
        }

    async def exchange(
        self,
        service: str,
        request_line: bytes,
        rest: bytes,
        *,
        repeatable: bool,
        head: bool,
        streams: bool,
        begin: Callable[[Connection], object],
    ) -> Connection:
        """Send a request to a replica and return the connection that carries the exchange; the words are those of ``Connection.start``.

        ``begin`` is called with it before anything is sent. Unless a body ``streams``, the answer's head has arrived on return, and a
        ``repeatable`` request whose reused connection died before an answer is sent once more, on a new connection.
        Raises UpstreamUnavailable, UpstreamFailed or UpstreamTimeout.
        """
        upstream = self._upstreams.get(service)
        if upstream is None:
            raise UpstreamUnavailable
        connection = upstream.idle()
        if connection is None:
            connection = await upstream.connect()
        begin(connection)
        connection.start(request_line, rest, head=head, streams=streams)
        if streams:
            return connection
        try:
            await connection.head()
        except UpstreamFailed:
            reused = connection.used > 1
            connection.release()
            if not (reused and repeatable):
                raise
            connection = await upstream.connect()
            begin(connection)
            connection.start(request_line, rest, head=head, streams=streams)
            await connection.head()
        return connection

    def sweep(self, now: float) -> None:
        """Once a second: close what idles, end what is overdue. ``now`` is the loop's time."""
        for upstream in self._upstreams.values():
            for replica in upstream.replicas:
                replica.sweep(now)

    def retire(self) -> None:
        """Make all connections anew from now on; what is on its way goes on."""
        for upstream in self._upstreams.values():
            for replica in upstream.replicas:
                replica.retire()

    def close(self) -> None:
        """Close the idle connections."""
        for upstream in self._upstreams.values():
            for replica in upstream.replicas:
                while replica.idle:
                    replica.idle.pop().close()
