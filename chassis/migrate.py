"""Bringing a service's database up to date; in a module of its own, since what does it takes a tenth of a service's start to load."""

import importlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy
from alembic import command
from alembic.config import Config

from chassis.db import APPEND_ONLY

MIGRATIONS = Path(__file__).parent / "migrations"
SERVICES = Path(__file__).parents[1] / "services"
QUEUES = ("outbox", "audit_outbox")


def migrate(service: str, owner_url: str) -> None:
    """Bring a service's database to the newest state: the chassis' tables, the service's own, and the rights of its role.

    Runs as the owner's role; the role that serves gets read and write on rows and no DDL, and vacuums the queues. Tables whose ``info`` says
    ``append_only`` can only be read and added to. Safe to repeat and to run side by side.
    """
    for versions, table in ((MIGRATIONS / "versions", "chassis_version"), (SERVICES / service / "migrations", "service_version")):
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("version_locations", str(versions))
        config.set_main_option("path_separator", "newline")
        config.attributes.update(url=owner_url, version_table=table, finish=lambda connection: _grant(connection, service))
        command.upgrade(config, "head")


def _grant(connection: sqlalchemy.Connection, service: str) -> None:
    if not re.fullmatch(r"[a-z_]+", service):
        raise ValueError(service)
    role = urlsplit(str(connection.engine.url)).username or ""
    runtime = role.removesuffix("_owner")
    models = importlib.import_module(f"services.{service}.models")
    kept = {table.name for table in models.Table.metadata.tables.values() if table.info.get(APPEND_ONLY)}
    quote = connection.dialect.identifier_preparer.quote
    for name in sqlalchemy.inspect(connection).get_table_names():
        rights = "SELECT, INSERT" if name in kept else "SELECT" if name.endswith("_version") else "SELECT, INSERT, UPDATE, DELETE"
        connection.execute(sqlalchemy.text(f"REVOKE ALL ON {quote(name)} FROM {quote(runtime)}"))
        connection.execute(sqlalchemy.text(f"GRANT {rights} ON {quote(name)} TO {quote(runtime)}"))
    for name in QUEUES:
        connection.execute(sqlalchemy.text(f"GRANT MAINTAIN ON {quote(name)} TO {quote(runtime)}"))
    connection.execute(sqlalchemy.text(f"GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {quote(runtime)}"))
