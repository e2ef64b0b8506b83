"""Offering, accepting and withdrawing datasets."""

from uuid import UUID

from chassis import deletion
from chassis.errors import NotFound
from chassis.outbox import UnitOfWork
from services.datasets import domain, repository
from services.datasets.models import Share
from services.datasets.service.datasets import own
from services.datasets.service.known import until_known


async def offer(uow: UnitOfWork, project_id: UUID, dataset_id: UUID, target: UUID) -> tuple[Share, str]:
    """Offer a dataset to another project; nothing is told of that one, not even whether there is one."""
    await until_known(uow, project_id)
    dataset = await own(uow, project_id, dataset_id, lock=True)
    homes = await repository.datasets.homes(uow.session, [*dataset.origins, dataset_id])
    share = domain.shares.offer(uow.new_id(), dataset, target, homes)
    if await repository.shares.open_share(uow.session, dataset_id, target) is not None:
        raise domain.shares.AlreadyShared
    uow.session.add(share)
    uow.emit(domain.shares.share_fact(share))
    return share, dataset.name


async def withdraw(uow: UnitOfWork, project_id: UUID, dataset_id: UUID, share_id: UUID) -> None:
    """End a share; reads in flight under it are cut."""
    await own(uow, project_id, dataset_id)
    await end(uow, await repository.shares.share_of(uow.session, project_id, dataset_id, share_id))


async def end(uow: UnitOfWork, share: Share) -> None:
    """Withdraw a share, say so, and have the reads in flight under it cut."""
    if domain.shares.withdraw(share):
        uow.emit(domain.shares.share_fact(share))
        await repository.heard.wake_flights(uow.session)


async def accept(uow: UnitOfWork, project_id: UUID, share_id: UUID) -> tuple[Share, str]:
    """Take an offered dataset into the project."""
    await deletion.hold(uow.session, project_id)
    share = await repository.shares.share(uow.session, share_id, lock=True)
    if domain.shares.accept(share, project_id) and share is not None:
        await until_known(uow, project_id)
        uow.emit(domain.shares.share_fact(share))
    if share is None:
        raise NotFound
    dataset = (await repository.datasets.by_id(uow.session, [share.dataset_id]))[share.dataset_id]
    return share, dataset.name
