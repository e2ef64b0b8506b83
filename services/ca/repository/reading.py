"""How rows are read: as they are now, whatever the session has seen of them before."""

from typing import TypeVar

from sqlalchemy import Executable
from sqlalchemy.ext.asyncio import AsyncEngine

Engine = AsyncEngine
Q = TypeVar("Q", bound=Executable)


def newest(statement: Q) -> Q:
    """The statement, so that rows that the session knows are read again."""
    return statement.execution_options(populate_existing=True)
