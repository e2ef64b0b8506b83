"""A service's database: its engine, statements that go straight to the driver, the base of its tables, and its migrations."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import sqlalchemy
from alembic import command
from alembic.config import Config
from sqlalchemy import MetaData, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import registry
from sqlmodel import SQLModel

MIGRATIONS = Path(__file__).parent / "migrations"
SERVICES = Path(__file__).parents[1] / "services"
APPEND_ONLY = "append_only"
QUEUES = ("outbox", "audit_outbox")
CONNECT_S = 10.0
AWAY = (OperationalError, InterfaceError)
GONE_STATES = ("08", "57P")
_DRIVER = "hortus.driver"
_ANY = text("SELECT 1")


class DatabaseAway(ConnectionError):
    """The database takes no connection at this moment."""


def table_base() -> type[SQLModel]:
    """A base class for one service's tables, on a registry of its own: services may have tables of one name."""

    class Table(SQLModel, registry=registry(metadata=MetaData())):
        """The base of a service's tables."""

    return Table


def engine(url: str, pool_size: int = 5) -> AsyncEngine:
    """The service's connection pool. A connection that cannot be made raises DatabaseAway, whatever the reason is."""

    async def connect() -> asyncpg.Connection:
        try:
            return await asyncpg.connect(plain_dsn(url), timeout=CONNECT_S)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseAway(type(error).__name__) from error

    return create_async_engine(
        url, async_creator=connect, pool_size=pool_size, max_overflow=pool_size, pool_pre_ping=False, pool_timeout=10, hide_parameters=True
    )


async def fetch(session: AsyncSession, statement: str, *values: Any) -> Sequence[Any]:
    """The rows of a statement that goes to the driver as it is, ``$1`` … being ``values``, in the session's transaction.

    For statements that very many requests wait for, and that bring no objects: by way of SQLAlchemy each costs four times the processor.
    It does not see what the session has not flushed. Raises what SQLAlchemy would raise.
    """
    driver = await _driver(session)
    try:
        rows: Sequence[Any] = await driver.fetch(statement, *values)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        if driver.is_closed():
            await session.execute(_ANY)  # so that SQLAlchemy finds out, gives the connection up, and says so
        kind = IntegrityError if isinstance(error, asyncpg.IntegrityConstraintViolationError) else DBAPIError
        raise kind(statement, None, error, hide_parameters=True) from error
    return rows


async def look(engine: AsyncEngine, statement: str, *values: Any) -> Sequence[Any]:
    """The rows of a single statement that reads, outside of any transaction and session: one way to the database and back.

    Raises what SQLAlchemy would raise.
    """
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            rows: Sequence[Any] = await driver.fetch(statement, *values)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
            if driver.is_closed():
                await connection.invalidate()
                raise DatabaseAway(type(error).__name__) from error
            raise DBAPIError(statement, None, error, hide_parameters=True) from error
    return rows


async def _driver(session: AsyncSession) -> asyncpg.Connection:
    """The driver's connection of the session's transaction, which SQLAlchemy begins with the first statement that it sees itself."""
    transaction = session.sync_session.get_transaction()
    held = session.info.get(_DRIVER)
    if held is not None and transaction is not None and held[0] is transaction:
        return held[1]
    pooled = await (await session.connection()).get_raw_connection()
    driver: asyncpg.Connection = pooled.driver_connection
    adapted: Any = pooled.dbapi_connection
    if not adapted.autocommit and not driver.is_in_transaction():
        await session.execute(_ANY)
    session.info[_DRIVER] = (session.sync_session.get_transaction(), driver)
    return driver


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database went away, and nothing about what was asked of it."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        return error.connection_invalidated or isinstance(error, AWAY) or state.startswith(GONE_STATES)
    return isinstance(error, (OSError, TimeoutError, PoolTimeout))


def plain_dsn(url: str) -> str:
    """The URL as the driver itself wants it."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)


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
