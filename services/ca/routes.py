"""The doors of ca."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from fastapi import Header, Request, Response

from chassis.guard import CurrentActor, SharedUow, Uow, doors, may, peer_certificate
from chassis.pages import InvalidCursor, Page, PageRequest, Paging
from contracts.policy import Action, Service
from services.ca import domain, repository, service, status_forms
from services.ca.models import Intent, ServiceCertificate
from services.ca.schemas import CertificateOrder, CertificateView, ServiceCertificateView
from services.ca.status_forms import NoAnswer

router = doors(Service.CA)
IfNoneMatch = Annotated[str | None, Header()]
BINARY = {"schema": {"type": "string", "format": "binary"}}
OCSP_REQUEST: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/ocsp-request": BINARY}}}
ASK_AGAIN = "no-cache"
KEEP = "public, max-age=3600"


class CrlResponse(Response):
    """A list of revoked certificates, DER (RFC 5280)."""

    media_type = "application/pkix-crl"


class CertificateResponse(Response):
    """A certificate, DER (RFC 2585)."""

    media_type = "application/pkix-cert"


class OcspResponse(Response):
    """What an OCSP responder says, DER (RFC 6960)."""

    media_type = "application/ocsp-response"


@router.post(
    "/projects/{project_id}/certificates",
    status_code=201,
    response_model=CertificateView,
    dependencies=[may(Action.CERTIFICATE_CREATE)],
)
async def create_certificate(project_id: UUID, order: CertificateOrder, shared: SharedUow) -> Response:
    """Issue a certificate of the project for the key in the request."""
    return await service.issuing.create(shared.answering(_created), project_id, order.csr)


@router.get("/projects/{project_id}/certificates", dependencies=[may(Action.CERTIFICATE_LIST)])
async def list_certificates(project_id: UUID, paging: Paging, actor: CurrentActor, uow: Uow) -> Page[CertificateView]:
    """The caller's certificates of the project; everybody's for a Data Owner. Oldest first."""
    rows = await repository.certificates.project_certificates(
        uow.session, project_id, domain.certificates.seen_by(actor), _after(paging), paging.limit
    )
    return paging.page(rows, lambda row: (row.created_at.isoformat(), row.certificate_id), CertificateView.model_validate)


@router.delete("/projects/{project_id}/certificates/{certificate_id}", status_code=204, dependencies=[may(Action.CERTIFICATE_REVOKE)])
async def revoke_certificate(project_id: UUID, certificate_id: str, uow: Uow) -> None:
    """Revoke a certificate; doing it again changes nothing."""
    await service.ending.revoke(uow, project_id, certificate_id)


@router.post(
    "/service-certificates",
    status_code=201,
    response_model=ServiceCertificateView,
    include_in_schema=False,
    dependencies=[may(Action.SERVICE_CERTIFICATE_CREATE)],
)
async def create_service_certificate(order: CertificateOrder, request: Request, uow: Uow) -> ServiceCertificate:
    """Certify a new key of the service that asks, by the certificate that its connection shows. No door of the gateway."""
    return await service.enrolment.renew(uow, peer_certificate(request), order.csr)


@router.get("/crls/{issuer}", response_class=CrlResponse, dependencies=[may(Action.CRL_READ)])
async def read_crl(issuer: str, if_none_match: IfNoneMatch = None) -> Response:
    """The issuer's list of revoked certificates; it names each that was revoked when this was asked."""
    number, der = await service.status.newest_list(issuer)
    return _unless_known(CrlResponse(der), str(number), ASK_AGAIN, if_none_match)


@router.get("/issuers/{issuer}", response_class=CertificateResponse, dependencies=[may(Action.ISSUER_READ)])
async def read_issuer(issuer: str, if_none_match: IfNoneMatch = None) -> Response:
    """The issuer's own certificate."""
    certificate = service.status.signer_of(issuer).certificate
    known = certificate.fingerprint(hashes.SHA256()).hex()
    return _unless_known(CertificateResponse(certificate.public_bytes(Encoding.DER)), known, KEEP, if_none_match)


@router.post("/ocsp", response_class=OcspResponse, openapi_extra=OCSP_REQUEST, dependencies=[may(Action.OCSP_ASK)])
async def ask_ocsp(request: Request) -> Response:
    """Whether a certificate is good, revoked or unknown (RFC 6960). What cannot be answered is said in OCSP's own words, with 200."""
    return await _answered(await request.body())


@router.get("/ocsp/{request:path}", response_class=OcspResponse, dependencies=[may(Action.OCSP_ASK_BY_PATH)])
async def ask_ocsp_by_path(request: str) -> Response:
    """The same for a request in base64, whose `/`, `+` and `=` are percent-encoded."""
    try:
        return await _answered(status_forms.from_path(request))
    except NoAnswer as none:
        return OcspResponse(none.der)


async def _answered(der: bytes) -> Response:
    try:
        return OcspResponse(await service.status.answer(service.status.asked(der)))
    except NoAnswer as none:
        return OcspResponse(none.der)


def _created(made: Intent) -> Response:
    body = CertificateView.model_validate(made).model_dump_json()
    return Response(body, status_code=201, media_type="application/json", headers={"ETag": f'"{made.version}"'})


def _unless_known(response: Response, tag: str, cache: str, if_none_match: str | None) -> Response:
    """The response with its ``ETag``, or 304 for whoever has it already (RFC 9110 section 13.1.2)."""
    response.headers.update({"ETag": f'"{tag}"', "Cache-Control": cache})
    known = {each.strip().removeprefix("W/") for each in (if_none_match or "").split(",")}
    if known & {f'"{tag}"', "*"}:
        return Response(status_code=304, headers={"ETag": f'"{tag}"', "Cache-Control": cache})
    return response


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
