"""The doors of audit: for auditors, and only to read."""

import base64
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query

from chassis.guard import Uow, doors, may
from chassis.pages import InvalidCursor, Page, PageRequest, Paging
from contracts.events import AuditRecord, Outcome
from contracts.policy import Action, Service
from services.audit import repository
from services.audit.models import Record
from services.audit.repository import Chain, Filter
from services.audit.schemas import ChainView, GapView, RecordView

router = doors(Service.AUDIT)
Word = Annotated[str | None, Query(min_length=1, max_length=200)]


async def _filter(
    source: Word = None, actor: Word = None, action: Word = None, outcome: Outcome | None = None, project_id: UUID | None = None
) -> Filter:
    return Filter(source, actor, action, outcome.value if outcome else None, project_id)


@router.get("/audit/records", dependencies=[may(Action.AUDIT_LIST)])
async def list_records(wanted: Annotated[Filter, Depends(_filter)], paging: Paging, uow: Uow) -> Page[RecordView]:
    """Records, oldest first: in the order of their numbers within one source, by time over all of them."""
    rows = await repository.records(uow.session, wanted, _after(paging, wanted), paging.limit)

    def key(row: tuple[Record, bytes | None]) -> tuple[Any, ...]:
        record = row[0]
        return (record.number,) if wanted.source is not None else (record.at.isoformat(), record.source, record.number)

    return paging.page(rows, key, lambda row: _show(*row))


@router.get("/audit/chains", dependencies=[may(Action.AUDIT_CHAINS)])
async def list_chains(paging: Paging, uow: Uow) -> Page[ChainView]:
    """Every source's chain, by source: how far it goes, its head, and what is missing."""
    last = paging.after_text()
    rows = sorted((chain for chain in await repository.chains(uow.session) if chain.source > last), key=lambda chain: chain.source)
    return paging.page(rows[: paging.limit + 1], lambda chain: (chain.source,), _show_chain)


def _show(row: Record, chain: bytes | None) -> RecordView:
    record = AuditRecord.model_validate_json(row.canonical)
    return RecordView(
        **record.model_dump(),
        leaf_hash=row.leaf.hex(),
        chain_hash=chain.hex() if chain else None,
        canonical=base64.b64encode(row.canonical).decode(),
    )


def _show_chain(chain: Chain) -> ChainView:
    return ChainView(
        source=chain.source,
        first=min(chain.head.number, 1),
        last=chain.head.number,
        count=chain.head.number,
        head=chain.head.chain.hex(),
        waiting=chain.waiting,
        gaps=[GapView.model_validate(gap) for gap in chain.gaps],
    )


def _after(paging: PageRequest, wanted: Filter) -> tuple[object, ...] | None:
    if paging.after is None:
        return None
    try:
        if wanted.source is not None:
            (number,) = paging.after
            return (_whole(number),)
        at, source, number = paging.after
        instant = datetime.fromisoformat(at)
    except (ValueError, TypeError) as error:
        raise InvalidCursor from error
    if instant.tzinfo is None or not isinstance(source, str):
        raise InvalidCursor
    return instant, source, _whole(number)


def _whole(number: object) -> int:
    if not isinstance(number, int) or not 0 <= number < 2**63:
        raise InvalidCursor
    return number
