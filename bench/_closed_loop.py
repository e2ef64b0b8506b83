"""Clients that ask again and again, each on a connection of its own, for benches whose requests are short."""

import asyncio
import ssl
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Client(asyncio.Protocol):
    """One connection that carries one request at a time."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.seen = bytearray()
        self.answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, port: int, context: ssl.SSLContext) -> "Client":
        """Connect."""
        _, protocol = await asyncio.get_running_loop().create_connection(cls, "localhost", port, ssl=context)
        return protocol

    def connection_made(self, transport: Any) -> None:
        """Keep the transport."""
        self.transport = transport

    def close(self) -> None:
        """Hang up."""
        self.transport.close()

    async def send(self, request: bytes) -> tuple[int, bytes]:
        """Ask; the status and the body of the answer."""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return await self.answer

    def data_received(self, data: bytes) -> None:
        """Put the answer together."""
        self.seen += data
        head, found, body = bytes(self.seen).partition(b"\r\n\r\n")
        if not found:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        complete = len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")  # without a length it comes in chunks
        if complete:
            self.seen.clear()
            self.answer.set_result((int(head[9:12]), body))

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that ends while an answer is due is an error."""
        if not self.answer.done():
            self.answer.set_exception(exc or asyncio.IncompleteReadError(bytes(self.seen), None))


Make = Callable[[int], bytes]


@dataclass
class Load:
    """What a closed loop found: answers, and how long each took in ms."""

    wall: float
    times: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """A second, and the latencies."""
        self.times.sort()
        count = len(self.times)
        return {
            "per_s": count / self.wall,
            "count": count,
            "p50_ms": statistics.median(self.times),
            "p99_ms": self.times[count * 99 // 100],
        }


async def closed_loop(clients: list[Client], seconds: float, make: Make, good: int = 200, begin: int = 0) -> Load:
    """Each of the clients sends request after request; ``make`` gives the bytes of the n-th, whose answer has to be ``good``."""
    load = Load(0.0)
    number = begin
    began = time.perf_counter()

    async def go(client: Client) -> None:
        nonlocal number
        while (start := time.perf_counter()) - began < seconds:
            mine, number = number, number + 1
            status, body = await client.send(make(mine))
            if status != good:
                raise RuntimeError(f"{status}: {body.decode(errors='replace')}")
            load.times.append(1000 * (time.perf_counter() - start))

    await asyncio.gather(*[go(client) for client in clients])
    load.wall = time.perf_counter() - began
    for client in clients:
        client.close()
    return load


async def connected(ports: list[int], context: ssl.SSLContext, count: int) -> list[Client]:
    """As many connections, spread over the ports."""
    return [await Client.open(ports[number % len(ports)], context) for number in range(count)]


def post(path: str, body: bytes, kind: str, *more: str) -> bytes:
    """An HTTP request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode() + body
