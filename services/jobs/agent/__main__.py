"""The process of the node agent: ``python -m services.jobs.agent``."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time

from chassis import log as logs
from chassis.log import logger
from services.jobs.agent import enrolment, keys
from services.jobs.agent.door import Away, Door, Refused
from services.jobs.agent.leases import Lease, Lost
from services.jobs.agent.settings import AgentSettings
from services.jobs.agent.waker import Waker
from services.jobs.agent.work import Work
from services.jobs.sandbox import cage

log = logger(__name__)
LONGEST_PAUSE_S = 5.0
UNKNOWN = 401


class Agent:
    """An agent with some slots. It looks for work when a notice comes, when a slot falls free, and every few seconds."""

    def __init__(self, settings: AgentSettings, machine: cage.Machine) -> None:
        self.settings = settings
        self.machine = machine
        self._slots = asyncio.Semaphore(settings.agent_slots)
        self._wake = asyncio.Event()
        self._unknown = asyncio.Event()
        self._looked = asyncio.Condition()
        self._looks = 0
        self._at_work: set[asyncio.Task[None]] = set()

    async def look(self) -> None:
        """Look for work; returns when it has been looked for after this call."""
        begun = self._looks + 1
        self._wake.set()
        async with self._looked:
            await self._looked.wait_for(lambda: self._looks > begun or (self._looks >= begun and not self._wake.is_set()))

    async def run(self) -> None:
        """Serve until cancelled; the runs are then killed, and wait for another agent when their leases run out."""
        identity = await enrolment.enrolled(self.settings)
        async with Door(self.settings.gateway_url, self.settings.root, identity.chain, identity.key) as door:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._stay_known(door, identity.chain))
                    group.create_task(self._serve(door))
            finally:
                for task in self._at_work:
                    task.cancel()
                await asyncio.gather(*self._at_work, return_exceptions=True)

    async def _stay_known(self, door: Door, chain: str) -> None:
        """Have the certificate renewed at half of its life, or when it is not accepted any more; what runs goes on meanwhile."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.agent_look_s):
                    await self._unknown.wait()
            if self._unknown.is_set() or keys.past_half_life(chain):
                identity = await enrolment.enrolled(self.settings, anew=True)
                await door.show(identity.chain, identity.key)
                chain = identity.chain
                self._unknown.clear()

    async def _serve(self, door: Door) -> None:
        """Take leases until cancelled."""
        pause = 0.2
        request = keys.fresh()
        while True:
            await self._slots.acquire()
            lease = None
            try:
                self._wake.clear()
                asked_at = time.monotonic()
                answer = await door.call("POST", "/leases", json={"csr": request.csr})
                lease = Lease(door, answer, asked_at) if answer.content else None
                pause = 0.2
            except Away as away:
                log.info("waits for the gateway", error=str(away))
                await self._has_looked()
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
                continue
            except Lost as lost:
                log.info("lease lost before it began", why=str(lost))
                request = keys.fresh()
            except Refused as refused:
                log.warning("the gateway refuses this agent", reason=str(refused))
                if refused.status == UNKNOWN and pause * 2 >= LONGEST_PAUSE_S:
                    self._unknown.set()
                await self._has_looked()
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
                continue
            finally:
                if lease is None:
                    self._slots.release()
            await self._has_looked()
            if lease is not None:
                log.info("lease taken", run_id=lease.run_id, fencing_token=lease.token)
                self._begin(lease, request.key)
                request = keys.fresh()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.agent_look_s):
                    await self._wake.wait()

    def _begin(self, lease: Lease, key: str) -> None:
        task = asyncio.create_task(Work(self.settings, self.machine, lease, key).done())
        self._at_work.add(task)

        def over(ended: asyncio.Task[None]) -> None:
            self._at_work.discard(ended)
            self._slots.release()
            self._wake.set()

        task.add_done_callback(over)

    async def _has_looked(self) -> None:
        self._looks += 1
        async with self._looked:
            self._looked.notify_all()


async def main() -> None:
    """Run the agent until SIGTERM or SIGINT."""
    settings = AgentSettings()
    logs.set_up(settings.service, settings.instance, settings.log_level)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    try:
        machine = cage.machine(settings.state_dir, settings.bwrap, settings.run_as)
        await cage.try_out(machine, settings.environments_dir)
    except cage.NoSandbox as error:
        log.error("no sandbox on this machine", problem=str(error))
        sys.exit(1)
    log.info("sandbox", limits=machine.describe(), user=machine.account.user, as_root=os.geteuid() == 0)
    if swaps := cage.swaps():
        log.warning("swap is on, and what jobs read can reach it: switch it off or encrypt it", swaps=swaps)
    agent = Agent(settings, machine)
    serving = asyncio.create_task(agent.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    waker = Waker(settings.valkey_url, settings.instance, agent.look)
    waker.start()
    try:
        await serving
    except asyncio.CancelledError:
        log.info("stopped")
    finally:
        waker.stop()


if __name__ == "__main__":
    asyncio.run(main())
