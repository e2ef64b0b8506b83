"""Offering datasets to other projects."""

from collections.abc import Mapping
from uuid import UUID

from chassis.errors import Conflict, NotFound
from contracts.events import Share as ShareFact
from contracts.events import ShareState
from services.datasets.domain.origins import may_leave
from services.datasets.models import Dataset, Share


class SharedWithItself(Conflict):
    """Source and target are one project."""

    title = "A dataset cannot be shared with the project that owns it"


class AlreadyShared(Conflict):
    """There is an open share between the two."""

    title = "The dataset is offered to or shared with that project already"


class ShareIsWithdrawn(Conflict):
    """The offer is no longer there."""

    title = "The share was withdrawn"


def offer(share_id: UUID, dataset: Dataset, target: UUID, homes: Mapping[UUID, UUID]) -> Share:
    """Offer a dataset, all of whose origins are the project's own, to another project."""
    if target == dataset.project_id:
        raise SharedWithItself
    may_leave(dataset.project_id, dataset, dataset.origins or [dataset.dataset_id], homes)
    return Share(
        share_id=share_id,
        dataset_id=dataset.dataset_id,
        project_id=dataset.project_id,
        target_project_id=target,
        state=ShareState.OFFERED,
        version=1,
    )


def accept(share: Share | None, project_id: UUID) -> bool:
    """Condition.SHARE_IS_FOR_PROJECT: take an offer; whether that changed anything."""
    if share is None or share.target_project_id != project_id:
        raise NotFound
    if share.state == ShareState.WITHDRAWN:
        raise ShareIsWithdrawn
    if share.state == ShareState.ACCEPTED:
        return False
    share.state = ShareState.ACCEPTED
    share.version += 1
    return True


def withdraw(share: Share) -> bool:
    """End a share; whether that changed anything."""
    if share.state == ShareState.WITHDRAWN:
        return False
    share.state = ShareState.WITHDRAWN
    share.version += 1
    return True


def share_fact(share: Share) -> ShareFact:
    """What the other services are told of a share."""
    return ShareFact(
        version=share.version,
        share_id=share.share_id,
        dataset_id=share.dataset_id,
        project_id=share.project_id,
        target_project_id=share.target_project_id,
        state=ShareState(share.state),
    )
