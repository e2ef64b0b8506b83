"""The Celery worker in the agent: a notice makes the agent look for work, and is acknowledged when it has looked."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import TimeoutError as NotInTime

from celery.worker import WorkController
from kombu.exceptions import OperationalError

from chassis.log import logger
from services.jobs import notices

log = logger(__name__)
LOOKED_S = 50.0
LONGEST_PAUSE_S = 5.0


class Waker:
    """A Celery worker in a thread of its own; ``look`` runs in the agent's event loop."""

    def __init__(self, url: str, name: str, look: Callable[[], Awaitable[None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = threading.Event()
        self._worker: WorkController | None = None
        self._name = name
        self._app = notices.post_office(url)
        self._app.conf.broker_connection_max_retries = None
        for noisy in ("celery", "kombu"):
            logging.getLogger(noisy).setLevel(logging.WARNING)

        async def looked() -> None:
            await look()

        @self._app.task(name=notices.TASK)  # type: ignore[untyped-decorator]
        def work_is_waiting(run_id: str) -> None:
            """Have the agent look for work; a notice that comes while every slot is busy is dropped after a while."""
            log.debug("told of a run", run_id=run_id)
            looking = asyncio.run_coroutine_threadsafe(looked(), self._loop)
            try:
                looking.result(LOOKED_S)
            except (NotInTime, asyncio.CancelledError):
                looking.cancel()

        self._thread = threading.Thread(target=self._run, name="celery", daemon=True)

    def start(self) -> None:
        """Begin to hear notices."""
        self._thread.start()

    def stop(self) -> None:
        """Stop hearing."""
        self._stopped.set()
        if self._worker is not None:
            self._worker.stop()

    def _run(self) -> None:
        pause = 0.5
        while not self._stopped.is_set():
            try:
                self._worker = WorkController(
                    app=self._app,
                    hostname=f"agent@{self._name}",
                    pool_cls="solo",
                    concurrency=1,
                    queues=[notices.QUEUE],
                    without_heartbeat=True,
                    without_mingle=True,
                    without_gossip=True,
                )
                self._worker.start()
            except (OperationalError, OSError) as error:
                log.warning("no notices; the agent looks for work by itself", error=type(error).__name__)
            if not self._stopped.is_set():
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_S)
