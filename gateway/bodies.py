"""Bodies that fit into memory: read whole before a connection to a service is taken, so that a slow client holds none."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from chassis.errors import Problem, TooLarge
from contracts.policy import KIB
from gateway.inflight import CLIENT_LEFT, Flight, Over

BODY_S = 30.0
SMALL = 8 * KIB
ROOM = 64 * KIB * KIB


class NoRoomForBody(Problem):
    """Bodies that are on their way fill the memory that there is for them."""

    status = 503
    title = "Too many large requests are on their way"


class Bodies:
    """Reads bodies. Those on their way share ``ROOM`` for what they have beyond their first ``SMALL`` bytes.

    So memory is bounded, and whoever fills it keeps nobody from signing in.
    """

    def __init__(self) -> None:
        self.held = 0

    async def whole(self, flight: Flight, receive: Callable[[], Awaitable[dict[str, Any]]], limit: int) -> bytes:
        """The body of a request, of ``limit`` bytes at most. Raises TooLarge, NoRoomForBody or Over."""
        flight.quiet = False
        flight.deadline = asyncio.get_running_loop().time() + BODY_S  # a body that fits into memory has no reason to drip
        body = bytearray()
        held = 0
        try:
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    flight.client_left()
                    raise Over(flight.over or CLIENT_LEFT)
                body += message["body"]
                flight.bytes_in = len(body)
                if len(body) > limit:
                    raise TooLarge(f"This door takes {limit} bytes.")
                if not message["more_body"]:
                    flight.quiet = True
                    return bytes(body)
                more = max(0, len(body) - SMALL) - held
                if self.held + more > ROOM:
                    raise NoRoomForBody(retry_after=1)
                held += more
                self.held += more
        finally:
            flight.deadline = 0.0
            self.held -= held
