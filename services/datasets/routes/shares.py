"""The doors of shares."""

from uuid import UUID

from chassis.guard import Uow, doors, may
from chassis.pages import Page, Paging
from contracts.policy import Action, Service
from services.datasets import repository, service
from services.datasets.models import Share
from services.datasets.schemas import NewShare, ShareView

router = doors(Service.DATASETS)


@router.post("/projects/{project_id}/datasets/{dataset_id}/shares", status_code=201, dependencies=[may(Action.SHARE_OFFER)])
async def offer_share(project_id: UUID, dataset_id: UUID, new: NewShare, uow: Uow) -> ShareView:
    """Offer a dataset to another project."""
    return show_share(await service.shares.offer(uow, project_id, dataset_id, new.target_project_id))


@router.get("/projects/{project_id}/datasets/{dataset_id}/shares", dependencies=[may(Action.SHARE_LIST)])
async def list_shares(project_id: UUID, dataset_id: UUID, page: Paging, uow: Uow) -> Page[ShareView]:
    """To whom a dataset was offered, oldest first."""
    dataset = await service.datasets.own(uow, project_id, dataset_id)
    rows = await repository.shares.shares_out(uow.session, project_id, dataset.dataset_id, page)
    return page.page(rows, lambda row: (row[0].share_id,), show_share)


@router.delete("/projects/{project_id}/datasets/{dataset_id}/shares/{share_id}", status_code=204, dependencies=[may(Action.SHARE_WITHDRAW)])
async def withdraw_share(project_id: UUID, dataset_id: UUID, share_id: UUID, uow: Uow) -> None:
    """End a share."""
    await service.shares.withdraw(uow, project_id, dataset_id, share_id)


@router.get("/projects/{project_id}/incoming-shares", dependencies=[may(Action.SHARE_LIST_INCOMING)])
async def list_incoming_shares(project_id: UUID, page: Paging, uow: Uow) -> Page[ShareView]:
    """What is offered to or shared into the project, oldest first."""
    return page.page(await repository.shares.shares_in(uow.session, project_id, page), lambda row: (row[0].share_id,), show_share)


@router.post("/projects/{project_id}/incoming-shares/{share_id}/acceptance", dependencies=[may(Action.SHARE_ACCEPT)])
async def accept_share(project_id: UUID, share_id: UUID, uow: Uow) -> ShareView:
    """Take an offered dataset into the project."""
    return show_share(await service.shares.accept(uow, project_id, share_id))


def show_share(row: tuple[Share, str]) -> ShareView:
    """A share with the name of its dataset."""
    return ShareView(**row[0].model_dump(), dataset_name=row[1])
