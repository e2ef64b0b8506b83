"""The doors of ca."""

from datetime import datetime
from uuid import UUID

from chassis.guard import CurrentActor, Uow, doors, may
from chassis.pages import InvalidCursor, Page, PageRequest, Paging
from contracts.policy import Action, Service
from services.ca import domain, repository, service
from services.ca.models import Certificate
from services.ca.schemas import CertificateOrder, CertificateView

router = doors(Service.CA)


@router.post(
    "/projects/{project_id}/certificates",
    status_code=201,
    response_model=CertificateView,
    dependencies=[may(Action.CERTIFICATE_CREATE)],
)
async def create_certificate(project_id: UUID, order: CertificateOrder, uow: Uow) -> Certificate:
    """Issue a certificate of the project for the key in the request."""
    return await service.create(uow, project_id, order.csr)


@router.get("/projects/{project_id}/certificates", dependencies=[may(Action.CERTIFICATE_LIST)])
async def list_certificates(project_id: UUID, paging: Paging, actor: CurrentActor, uow: Uow) -> Page[CertificateView]:
    """The caller's certificates of the project; everybody's for a Data Owner. Oldest first."""
    rows = await repository.project_certificates(uow.session, project_id, domain.seen_by(actor), _after(paging), paging.limit)
    return paging.page(rows, lambda row: (row.created_at.isoformat(), row.certificate_id), CertificateView.model_validate)


@router.delete("/projects/{project_id}/certificates/{certificate_id}", status_code=204, dependencies=[may(Action.CERTIFICATE_REVOKE)])
async def revoke_certificate(project_id: UUID, certificate_id: str, uow: Uow) -> None:
    """Revoke a certificate; doing it again changes nothing."""
    await service.revoke(uow, project_id, certificate_id)


def _after(paging: PageRequest) -> tuple[datetime, str] | None:
    if paging.after is None:
        return None
    try:
        at, certificate_id = paging.after
        instant = datetime.fromisoformat(at)
    except (ValueError, TypeError) as error:
        raise InvalidCursor from error
    if instant.tzinfo is None or not isinstance(certificate_id, str):
        raise InvalidCursor
    return instant, certificate_id
