"""The one door of search."""

from dataclasses import asdict
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Query, Request

from chassis.guard import AFTER_HEADER, CurrentActor, doors, may
from chassis.outbox import read_facts_header
from chassis.pages import Paging
from contracts.policy import Action, Service
from services.search import service
from services.search.models import Kind
from services.search.schemas import HitPage, HitView
from services.search.service import Library

router = doors(Service.SEARCH)


async def _library(request: Request) -> Library:
    library: Library = request.app.state.runtime.extra["library"]
    return library


@router.get("/search", dependencies=[may(Action.SEARCH)])
async def search(
    q: Annotated[str, Query(max_length=1000)],
    actor: CurrentActor,
    page: Paging,
    library: Annotated[Library, Depends(_library)],
    kind: Kind | None = None,
    project_id: UUID | None = None,
    after: Annotated[str, Header(alias=AFTER_HEADER)] = "",
) -> HitPage:
    """Find datasets and jobs of the caller's projects, and datasets shared into them, by words; best first."""
    found = await service.search(library, actor, q, kind, project_id, page, read_facts_header(after))
    shown = page.page(found.hits, service.place, lambda hit: HitView.model_validate(asdict(hit)))
    return HitPage(items=shown.items, next=shown.next, total=found.total)
