"""Notices to agents that work is waiting: Celery over Valkey. They carry no right and no content, only a run's id."""

from typing import Any
from uuid import UUID

from celery import Celery

TASK = "hortus.work_is_waiting"
QUEUE = "hortus.runs"
CONNECT_S = 2.0


def post_office(url: str) -> Celery:
    """The Celery application that jobs sends with and agents receive with; ``url`` as in ``redis+socket:///…/valkey.sock``."""
    app = Celery("hortus", broker=url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        broker_connection_timeout=CONNECT_S,
        broker_connection_retry_on_startup=True,
        broker_transport_options={"socket_connect_timeout": CONNECT_S, "visibility_timeout": 60},
        task_publish_retry=False,
    )
    return app


def send(app: Celery, run_ids: list[UUID]) -> None:
    """Tell one agent for each run that it waits. Blocks; raises kombu's OperationalError or OSError."""
    connection: Any
    with app.connection_for_write() as connection:
        for run_id in run_ids:
            app.send_task(TASK, kwargs={"run_id": str(run_id)}, connection=connection, expires=60)
