"""One run from its lease to its last report."""

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from chassis.log import logger
from services.jobs.agent.door import Away, Door, Refused
from services.jobs.agent.leases import Lease, Lost
from services.jobs.agent.settings import AgentSettings
from services.jobs.sandbox import cage, environments, files

log = logger(__name__)
MIB = 1024 * 1024
LOG_EVERY_S = 0.3
METRICS_EVERY_S = 2.0
LOG_PART = 32 * 1024
CHUNK = 256 * 1024
PATIENCE_S = 15.0
RETRY_S = 0.2
PAGE = 200
NOT_HEARD_OF_YET = frozenset({401, 404})


class Failed(Exception):
    """The run cannot succeed; the sentence is for the person who submitted it."""


@dataclass(frozen=True)
class Input:
    """A file of an input: where it is read, where it goes, and what it must be."""

    source: str
    target: str
    size: int
    sha256: str


class Work:
    """The work on one lease."""

    def __init__(self, settings: AgentSettings, machine: cage.Machine, lease: Lease, key: str) -> None:
        self.settings = settings
        self.machine = machine
        self.lease = lease
        self.key = key

    async def done(self) -> None:
        """Carry out the run; when the lease is lost, everything of it is killed at once."""
        name = self.lease.run_id
        working = asyncio.create_task(self._work())
        holding = asyncio.create_task(self.lease.hold())
        try:
            await asyncio.wait({working, holding}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            began = time.monotonic()
            for task in (working, holding):
                task.cancel()
            ended, held = await asyncio.gather(working, holding, return_exceptions=True)
        lost = held.exceptions[0] if isinstance(held, ExceptionGroup) else ended if isinstance(ended, Lost) else None
        if lost is not None:
            log.info("run given up", run_id=name, why=str(lost), stopped_in_ms=round(1000 * (time.monotonic() - began)))
        elif isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
            log.error("run broke", run_id=name, exc_info=ended)

    async def _work(self) -> None:
        try:
            ending, metrics = await self._run()
        except (Failed, cage.NoSandbox, environments.UnknownEnvironment, files.Refused) as error:
            log.info("run failed", run_id=self.lease.run_id, error=str(error))
            await self.lease.report("failed", reason=str(error)[:500])
            return
        state = "succeeded" if ending.exit_code == 0 and ending.reason is None else "failed"
        log.info("run ended", run_id=self.lease.run_id, state=state, exit_code=ending.exit_code)
        await self.lease.report(state, exit_code=ending.exit_code, reason=ending.reason, metrics=metrics)

    async def _run(self) -> tuple[cage.Ending, dict[str, float]]:
        """Prepare, run and stage; an ending without 0 stages nothing."""
        wanted = self.lease.terms
        environment = environments.find(wanted["environment"], self.settings.environments_dir)
        memory = wanted["resources"]["memory_mib"] * MIB
        if memory > _memory("MemTotal"):
            raise Failed("The job asks for more memory than this machine has.")
        try:
            chain = await self.lease.certificate(self.settings.agent_certificate_s)
        except TimeoutError as error:
            raise Failed(f"The run's certificate did not come within {self.settings.agent_certificate_s:g} s.") from error
        async with Door(self.settings.gateway_url, self.settings.root, chain, self.key) as door:
            inputs = [each for place in wanted["inputs"] for each in await self._list(door, place)]
            size = files.room_for([each.size for each in inputs])
            if size > _memory("MemAvailable") // 2:
                raise Failed(
                    f"The inputs need {size // MIB} MiB; this machine holds no more than half its free memory of inputs at a time."
                )
            order = cage.Order(
                run=f"{self.lease.run_id}-{self.lease.token}",
                program=wanted["program"],
                arguments=tuple(wanted["arguments"]),
                environment=environment,
                inputs=tuple({**place, "folder": place["name"]} for place in wanted["inputs"]),
                input_bytes=size,
                output_bytes=max(min(memory, _memory("MemAvailable") // 4), MIB),
                memory=memory,
                cores=wanted["resources"]["cores"],
                wall_seconds=wanted["resources"]["wall_seconds"],
            )
            async with cage.prepared(self.machine, order) as box:
                for each in inputs:
                    await self._fetch(door, each, box.inputs)
                await self.lease.report("running")
                await box.start()
                ending = await self._follow(box)
                if ending.exit_code == 0 and ending.reason is None:
                    for output in files.outputs(box.outputs):
                        await self._stage(door, output, box.outputs)
                return ending, files.metrics(box.metrics)

    async def _list(self, door: Door, place: dict[str, str]) -> list[Input]:
        """The files of an input. Certificate and lease may not have arrived everywhere yet: asked again for a while."""
        path = f"/runs/{self.lease.run_id}/inputs/{place['dataset_id']}/files"
        found: list[Input] = []
        after: str | None = None
        while True:
            params: dict[str, Any] = {"limit": PAGE} | ({"after": after} if after else {})
            answer = (await self._patiently(door, "GET", path, params=params)).json()
            found += [
                Input(f"{path}/{quote(item['path'])}", f"{place['name']}/{item['path']}", item["size"], item["sha256"])
                for item in answer["items"]
            ]
            after = answer["next"]
            if after is None:
                return found

    async def _fetch(self, door: Door, wanted: Input, folder: int) -> None:
        """Write one input into the sandbox's memory, and nowhere else. Raises Failed when it is not what was listed."""
        opened = files.create(folder, wanted.target)
        until = time.monotonic() + PATIENCE_S
        try:
            while True:
                os.ftruncate(opened, 0)
                os.lseek(opened, 0, os.SEEK_SET)
                digest = hashlib.sha256()
                try:
                    async with door.stream(wanted.source, after=self.lease.facts) as answer:
                        async for piece in answer.aiter_bytes(CHUNK):
                            digest.update(piece)
                            os.write(opened, piece)
                except Away as away:
                    if time.monotonic() > until:
                        raise Failed("An input could not be read: the gateway did not answer.") from away
                    await asyncio.sleep(RETRY_S)
                    continue
                except Refused as refused:
                    raise Failed(f"An input could not be read ({refused}).") from refused
                except OSError as error:
                    raise Failed("An input did not fit into the memory that its size asked for.") from error
                if digest.hexdigest() != wanted.sha256:
                    raise Failed("An input did not arrive as it was stored.")
                return
        finally:
            os.close(opened)

    async def _follow(self, box: cage.Cage) -> cage.Ending:
        """Send the log and metrics while the program runs, and the rest when it has ended."""
        running = asyncio.create_task(box.ended())
        sent = 0
        metrics: dict[str, float] = {}
        metrics_due = time.monotonic() + METRICS_EVERY_S
        try:
            while not running.done():
                await asyncio.wait({running}, timeout=LOG_EVERY_S)
                sent = await self._send_log(box, sent)
                if time.monotonic() >= metrics_due and not running.done():
                    metrics_due = time.monotonic() + METRICS_EVERY_S
                    now = files.metrics(box.metrics)
                    if now != metrics:
                        metrics = now
                        await self.lease.report("running", metrics=metrics)
            await self._send_log(box, sent)
            return running.result()
        finally:
            if not running.done():
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

    async def _send_log(self, box: cage.Cage, sent: int) -> int:
        """Send what is new, or the newest part of it; returns the offset up to which everything was sent."""
        while sent < box.log.end:
            start, text = box.log.since(sent, LOG_PART)
            if not text:
                return start
            await self.lease.add_log(start, text)
            sent = start + len(text.encode())
        return sent

    async def _stage(self, door: Door, output: files.Output, folder: int) -> None:
        """Hand one output over; it becomes visible when the run's success has been heard."""
        opened = files.open_output(folder, output)
        try:
            digest = hashlib.sha256()
            for offset in range(0, output.size, CHUNK):
                digest.update(os.pread(opened, CHUNK, offset))

            async def content() -> AsyncIterator[bytes]:
                for offset in range(0, output.size, CHUNK):
                    yield os.pread(opened, CHUNK, offset)

            headers = {
                "Content-Length": str(output.size),
                "Content-Type": "application/octet-stream",
                "Hortus-Content-SHA256": digest.hexdigest(),
            }
            path = f"/runs/{self.lease.run_id}/outputs/{quote(output.path)}"
            until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    await door.call("PUT", path, after=self.lease.facts, headers=headers, content=content())
                except Away as away:
                    if time.monotonic() > until:
                        raise Failed("An output could not be stored: the gateway did not answer.") from away
                    await asyncio.sleep(RETRY_S)
                except Refused as refused:
                    raise Failed(f"An output could not be stored ({refused}).") from refused
                else:
                    return
        finally:
            os.close(opened)

    async def _patiently(self, door: Door, method: str, path: str, **arguments: Any) -> Any:
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await door.call(method, path, after=self.lease.facts, **arguments)
            except Away as away:
                if time.monotonic() > until:
                    raise Failed("The inputs could not be listed: the gateway did not answer.") from away
            except Refused as refused:
                if refused.status not in NOT_HEARD_OF_YET or time.monotonic() > until:
                    raise Failed(f"An input could not be read ({refused}).") from refused
            await asyncio.sleep(RETRY_S)


def _memory(name: str) -> int:
    """A figure of /proc/meminfo, in bytes."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines[name].split()[0]) * 1024
