"""Holding a lease: it is renewed, watched, and lost the moment that this cannot be done any more."""

import asyncio
import time
from typing import Any

import httpx2

from chassis.log import logger
from services.jobs.agent.door import Away, Door, Refused

log = logger(__name__)
HELD = frozenset({"leased", "running"})
WATCH_S = 2.0
RETRY_S = 0.1
MARGIN_S = 1.0


class Lost(Exception):
    """The run is not this agent's any more: cancelled, given to another, or the lease could not be renewed in time."""


class Lease:
    """One lease. ``run_id`` and all that the run needs are in ``terms``, as the gateway answered it."""

    def __init__(self, door: Door, answer: httpx2.Response, asked_at: float) -> None:
        self.terms: dict[str, Any] = answer.json()
        self.facts = answer.headers.get("Hortus-Facts", "")
        self.run_id: str = self.terms["run_id"]
        self.token: int = self.terms["fencing_token"]
        self._door = door
        self._path = f"/leases/{self.run_id}"
        self._good_until = asked_at + self.terms["lease_seconds"] - MARGIN_S
        self._certified = asyncio.Event()
        self._take_in(self.terms)

    async def hold(self) -> None:
        """Renew and watch until the lease is lost: raises Lost, at the latest a second before it runs out."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew())
            group.create_task(self._watch())

    async def certificate(self, within: float) -> str:
        """The chain of the run's certificate, when it has arrived. Raises TimeoutError when it has not in as many seconds."""
        async with asyncio.timeout(within):
            await self._certified.wait()
        chain: str = self.terms["certificate"]
        return chain

    async def report(self, state: str, **more: Any) -> None:
        """Say how the run stands. Raises Lost when this lease cannot say it any more."""
        await self._insist("report", {"state": state, **more})

    async def add_log(self, offset: int, text: str) -> None:
        """Send a part of the log. Raises Lost."""
        await self._insist("log", {"offset": offset, "text": text})

    async def _insist(self, what: str, body: dict[str, Any]) -> None:
        """Say something until it is heard or the lease is over."""
        while True:
            try:
                await self._door.call("POST", f"{self._path}/{what}", json={"fencing_token": self.token, **body})
            except Away:
                await asyncio.sleep(RETRY_S * 2)
            except Refused as refused:
                raise Lost(f"{what}: {refused}") from refused
            else:
                return

    async def _renew(self) -> None:
        pause = self.terms["lease_seconds"] / 4
        while True:
            await asyncio.sleep(pause)
            asked_at = time.monotonic()
            try:
                answer = await self._ask("POST", f"{self._path}/renewal", json={"fencing_token": self.token})
            except Away as away:
                log.warning("lease not renewed", run_id=self.run_id, error=str(away))
                pause = RETRY_S
                continue
            self._good_until = asked_at + answer["lease_seconds"] - MARGIN_S
            self._take_in(answer)
            pause = answer["lease_seconds"] / 4

    async def _watch(self) -> None:
        while True:
            try:
                answer = await self._ask("GET", self._path, params={"seen": self.terms["version"], "wait": WATCH_S})
            except Away:
                await asyncio.sleep(RETRY_S)
                continue
            self._take_in(answer)

    async def _ask(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        """Ask within the time that the lease is good for. Raises Away, Lost."""
        left = self._good_until - time.monotonic()
        if left <= 0:
            raise Lost("it could not be renewed in time")
        try:
            answer = await asyncio.wait_for(self._door.call(method, path, **arguments), left)
        except TimeoutError as error:
            raise Lost("it could not be renewed in time") from error
        except Refused as refused:
            raise Lost(str(refused)) from refused
        found: dict[str, Any] = answer.json()
        return found

    def _take_in(self, answer: dict[str, Any]) -> None:
        if answer["fencing_token"] != self.token or answer["cancelled"] or answer["state"] not in HELD:
            raise Lost(answer["state"])
        if answer["version"] >= self.terms["version"]:
            self.terms = answer
        if self.terms["certificate"] is not None:
            self._certified.set()
