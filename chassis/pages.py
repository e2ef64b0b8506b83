"""Cursor pages: every list answers ``{"items": […], "next": cursor | null}``."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from fastapi import Depends, Query
from pydantic import BaseModel

from chassis.errors import Unprocessable

T = TypeVar("T")
R = TypeVar("R")
MAX_LIMIT = 200


class InvalidCursor(Unprocessable):
    """``after`` is not a cursor that this list gave."""

    title = "The cursor is not one that this list gave"


class Page(BaseModel, Generic[T]):
    """One page of a list; ``next`` is the cursor of the next page, or null at the end."""

    items: list[T]
    next: str | None = None


@dataclass(frozen=True)
class PageRequest:
    """How much to read and after what. ``after`` is the sort key of the last item seen, as the list's own values."""

    limit: int
    after: tuple[Any, ...] | None

    def after_id(self) -> UUID | None:
        """The id to go on after, for lists sorted by one. Raises InvalidCursor."""
        if self.after is None:
            return None
        try:
            (value,) = self.after
            return UUID(value)
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidCursor from error

    def after_text(self) -> str:
        """The text to go on after, for lists sorted by one; empty at the beginning. Raises InvalidCursor."""
        if self.after is None:
            return ""
        try:
            (value,) = self.after
        except ValueError as error:
            raise InvalidCursor from error
        if not isinstance(value, str) or "\0" in value:
            raise InvalidCursor
        return value

    def page(self, rows: Sequence[R], key: Callable[[R], tuple[Any, ...]], show: Callable[[R], T]) -> Page[T]:
        """Make the page from up to ``limit + 1`` rows read in order; the extra row says that there is more."""
        shown = rows[: self.limit]
        more = len(rows) > self.limit
        return Page[Any](items=[show(row) for row in shown], next=encode(key(shown[-1])) if more else None)


def encode(key: tuple[Any, ...]) -> str:
    """A sort key as an opaque cursor."""
    return base64.urlsafe_b64encode(json.dumps(key, default=str).encode()).rstrip(b"=").decode()


def decode(cursor: str) -> tuple[Any, ...]:
    """The sort key in a cursor. Raises InvalidCursor."""
    try:
        values = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, UnicodeDecodeError) as error:
        raise InvalidCursor from error
    if not isinstance(values, list):
        raise InvalidCursor
    return tuple(values)


async def _page_request(
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = 50,
    after: Annotated[str | None, Query(max_length=512)] = None,
) -> PageRequest:
    return PageRequest(limit, decode(after) if after else None)


Paging = Annotated[PageRequest, Depends(_page_request)]
