"""A service's database: its engine, and statements that go straight to the driver."""

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

import asyncpg
import sqlalchemy
from sqlalchemy import Connection, Engine, PoolProxiedConnection, text
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session, class_mapper
from sqlmodel import SQLModel

APPEND_ONLY = "append_only"
CONNECT_S = 10.0
AWAY = (OperationalError, InterfaceError)
GONE_STATES = ("08", "57P")
AUTOCOMMIT = "AUTOCOMMIT"
_NOW = "SELECT now()"
_ANY = text("SELECT 1")

T = TypeVar("T", bound=SQLModel)
Row: TypeAlias = asyncpg.Record


class DatabaseAway(ConnectionError):
    """The database takes no connection at this moment."""


def engine(url: str, connections: int = 10) -> AsyncEngine:
    """The service's pool of at most so many connections. One that cannot be made raises DatabaseAway, whatever the reason is.

    What was made is kept, the newest is used first: a new connection costs more than fifty statements, since a server process begins, and each statement
    is parsed and planned anew.
    """

    async def connect() -> asyncpg.Connection:
        try:
            return await asyncpg.connect(plain_dsn(url), timeout=CONNECT_S)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseAway(type(error).__name__) from error

    return create_async_engine(
        url,
        async_creator=connect,
        pool_size=connections,
        max_overflow=0,
        pool_use_lifo=True,
        pool_pre_ping=False,
        pool_timeout=10,
        hide_parameters=True,
    )


class _Held(Session):
    """A session that takes its connection, and begins, by the driver alone; SQLAlchemy comes to it with the first statement of its own."""

    def __init__(self, bind: Engine, **options: Any) -> None:
        super().__init__(bind, **options)
        self._engine = bind
        self._held: PoolProxiedConnection | None = None
        self._joined: Connection | None = None

    def hold(self) -> datetime | None:
        """Take a connection of the pool and begin; the database's clock then, None where each statement stands for itself."""
        self._held = self._engine.raw_connection()
        if self._engine.get_execution_options().get("isolation_level") == AUTOCOMMIT:
            return None
        try:
            cursor = self._held.cursor()
            cursor.execute(_NOW, ())
            now: datetime = cursor.fetchall()[0][0]
        except (self._engine.dialect.loaded_dbapi.Error, asyncpg.InternalClientError) as error:
            _is_gone(self.driver, error)
            self.get_bind().exec_driver_sql(_NOW)  # so that SQLAlchemy finds out, gives the connection up, and says so
            raise
        except BaseException:
            self._held.invalidate()  # whether it has begun is not known
            self._held = None
            raise
        return now

    @property
    def driver(self) -> asyncpg.Connection | None:
        """The driver's connection, where one is held."""
        return self._held.driver_connection if self._held is not None else None

    def get_bind(self, *_args: Any, **_more: Any) -> Connection:
        """The connection that is held, as SQLAlchemy wants it."""
        if self._held is None:
            self.hold()
        if self._joined is None:
            self._joined = Connection(self._engine, connection=self._held)
        return self._joined

    def commit(self) -> None:
        """Keep what was done, and give the connection back."""
        if self.in_transaction():
            self.connection()  # or it would know nothing of what the driver did alone
            super().commit()
        elif self._held is not None:
            self.get_bind().begin().commit()
        self._let_go()

    def rollback(self) -> None:
        """Undo what was done, and give the connection back."""
        super().rollback()
        self._let_go()

    def close(self) -> None:
        """Undo what was not kept, and give the connection back."""
        super().close()
        self._let_go()

    def _let_go(self) -> None:
        held, joined, self._held, self._joined = self._held, self._joined, None, None
        if joined is not None:
            joined.close()
        elif held is not None:
            held.close()


def session(engine: AsyncEngine) -> AsyncSession:
    """A session for one transaction at a time; on an engine with ``AUTOCOMMIT`` each statement stands for itself."""
    return AsyncSession(engine, sync_session_class=_Held, expire_on_commit=False)


async def begin(session: AsyncSession) -> datetime:
    """Begin the transaction; the database's clock at its start."""
    now: datetime = await session.run_sync(_Held.hold)  # type: ignore[arg-type]
    return now


async def fetch(session: AsyncSession, statement: str, *values: Any) -> Sequence[Row]:
    """The rows of a statement that goes to the driver as it is, ``$1`` … being ``values``, in the session's transaction.

    For statements that very many requests wait for, and that bring no objects: by way of SQLAlchemy each costs four times the processor.
    It does not see what the session has not flushed. Raises what SQLAlchemy would raise.
    """
    held: _Held = session.sync_session  # type: ignore[assignment]
    if held.driver is None:
        await session.run_sync(_Held.hold)  # type: ignore[arg-type]
    driver: asyncpg.Connection = held.driver
    try:
        rows: Sequence[Row] = await driver.fetch(statement, *values)
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        if _is_gone(driver, error):
            await session.execute(_ANY)  # so that SQLAlchemy finds out, gives the connection up, and says so
        kind = IntegrityError if isinstance(error, asyncpg.IntegrityConstraintViolationError) else DBAPIError
        raise kind(statement, None, error, hide_parameters=True) from error
    return rows


async def look(engine: AsyncEngine, statement: str, *values: Any) -> Sequence[Any]:
    """The rows of a single statement, outside of any transaction and session: one way to the database and back.

    Raises what SQLAlchemy would raise.
    """
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        try:
            rows: Sequence[Any] = await driver.fetch(statement, *values)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
            if _is_gone(driver, error):
                await connection.invalidate()
                raise DatabaseAway(type(error).__name__) from error
            raise DBAPIError(statement, None, error, hide_parameters=True) from error
    return rows


async def put(session: AsyncSession, row: SQLModel) -> None:
    """Store a row over what stands under its key, in one statement of the driver. Raises what SQLAlchemy would raise.

    An object that the session had of it is the session's no more: whoever asks again is given what was stored.
    """
    if session.new or session.dirty or session.deleted:
        await session.flush()
    statement, names = _upsert(type(row))
    await fetch(session, statement, *[getattr(row, name) for name in names])
    key = class_mapper(type(row)).identity_key_from_instance(row)
    if (known := session.identity_map.get(key)) is not None:
        session.expunge(known)


@functools.cache
def _upsert(table: type[SQLModel]) -> tuple[str, list[str]]:
    """A statement that stores a row of a table, and the attributes that it takes in their order."""
    stored: sqlalchemy.Table = class_mapper(table).local_table  # type: ignore[assignment]
    names = [column.name for column in stored.columns]
    keys = [column.name for column in stored.primary_key]
    changes = [f'"{name}" = excluded."{name}"' for name in names if name not in keys]
    columns, values = ", ".join(f'"{name}"' for name in names), ", ".join(f"${number + 1}" for number in range(len(names)))
    conflict = ", ".join(f'"{name}"' for name in keys)
    statement = f'INSERT INTO "{stored.name}" ({columns}) VALUES ({values}) ON CONFLICT ({conflict}) DO UPDATE SET {", ".join(changes)}'  # noqa: S608 - names of our own tables
    return statement, names


def _is_gone(driver: asyncpg.Connection, error: Exception) -> bool:
    """Whether a connection is gone; one whose server says so while a statement is about to be sent is given up here."""
    if isinstance(error, asyncpg.InternalClientError):
        driver.terminate()
    closed: bool = driver.is_closed()
    return closed


def as_stored(table: type[T], row: Mapping[str, Any]) -> T:
    """An object of a table as a row that ``fetch`` brought says, to be read: no session knows it, and to change it raises AttributeError."""
    class_mapper(table)  # the attributes of a class are there once it was asked for
    stored: T = table.__new__(table)
    stored.__dict__.update(row)
    return stored


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database went away, and nothing about what was asked of it."""
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        return error.connection_invalidated or isinstance(error, AWAY) or state.startswith(GONE_STATES)
    return isinstance(error, (OSError, TimeoutError, PoolTimeout))


def plain_dsn(url: str) -> str:
    """The URL as the driver itself wants it."""
    return url.replace("postgresql+asyncpg://", "postgresql://", 1)
