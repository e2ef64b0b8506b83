"""Structured logs: one JSON object a line on standard error, without secrets."""

import logging
import math
import sys
import time
from collections.abc import MutableMapping
from typing import Any

import structlog

SECRET_WORDS = ("password", "token", "secret", "code", "authorization", "cookie", "passphrase", "private", "csr")

CHATTY = "aiokafka"
RARELY_S = 10.0
MOST_KINDS = 1000


class Rarely(logging.Filter):
    """Lets the Kafka client say each thing once in ``RARELY_S``, and how often it was kept back: of a broker that is away it tells at each try."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is written."""
        if not record.name.startswith(CHATTY):
            return True
        what = record.name, str(record.msg)
        at, kept_back = self._said.get(what, (-math.inf, 0))
        now = time.monotonic()
        if now - at < RARELY_S:
            self._said[what] = at, kept_back + 1
            return False
        if len(self._said) >= MOST_KINDS:
            self._said.clear()
        self._said[what] = now, 0
        if kept_back:
            record.msg = f"{record.msg} ({kept_back} times more since the last time)"
        return True


def _without_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in event:
        if any(word in name.lower() for word in SECRET_WORDS) and name not in ("status_code", "fencing_token", "exit_code"):
            event[name] = "…"
    return event


def set_up(service: str, instance: str, level: str = "INFO") -> None:
    """Send this process's logs, and those of its libraries, to standard error as JSON lines."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Rarely())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(service=service, instance=instance)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module."""
    log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return log
