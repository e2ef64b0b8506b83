"""Running services have their own certificates renewed: a new key for whoever shows a certificate that still counts.

As everywhere in ca an intent is committed before anything is signed, and the certificate is stored and audited before it is handed out.
Nobody is told of it: services know each other by their issuer and their names.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from prometheus_client import Gauge

from chassis import tls
from chassis.csr import read_csr
from chassis.errors import CannotDecide
from chassis.log import logger
from chassis.outbox import Caller, UnitOfWork
from services.ca import domain, repository
from services.ca.domain.enrolment import NothingToFollow
from services.ca.models import ServiceCertificate
from services.ca.repository import Engine
from services.ca.service.issuing import serial
from services.ca.service.office import Journal
from services.ca.signer import Signer

log = logger(__name__)
COMPARE_S = 10.0
FOLLOWED_TWICE = Gauge(
    "hortus_service_certificates_followed_twice", "Certificates of services that more than one living certificate follows"
)


@dataclass(frozen=True)
class Desk:
    """What renewing needs beside the database: the issuer of services, and transactions for intents.

    ``keys`` are the issuer's by their identifiers in hex; ``life`` is how long its certificates live.
    """

    keys: Mapping[str, Signer]
    trust_domain: str
    life: timedelta
    journal: Journal


_open: list[Desk] = []


async def compare(engine: Engine, warnings: list[str]) -> None:
    """Again and again, see whether two living certificates follow the same one, and keep in ``warnings`` which do.

    A service goes from one certificate to the next. Two after one are a lost answer, or somebody else who has its key.
    """
    while True:
        found = await repository.enrolment.followed_twice(engine)
        said = [
            f"two living certificates of {service} follow {serial}: an answer was lost, or its key is in other hands"
            for service, serial in found
        ]
        for new in set(said) - set(warnings):
            log.warning("renewals", warning=new)
        warnings[:] = said
        FOLLOWED_TWICE.set(len(said))
        await asyncio.sleep(COMPARE_S)


def open_desk(desk: Desk) -> None:
    """Renew with this from now on."""
    _open.append(desk)


def close_desk(desk: Desk) -> None:
    """Renew with this no longer."""
    _open.remove(desk)


async def renew(uow: UnitOfWork, der: bytes | None, csr: str) -> ServiceCertificate:
    """A certificate for the key in the request, with the names in the certificate that the caller's connection shows (DER).

    The key that signed that one signs this one: services trust the keys of their issuer that there were when they started.
    Raises CsrRefused, NothingToFollow, and CannotDecide where this ca has no such key.
    """
    if not _open:
        raise CannotDecide("The issuer of services is not here.")
    desk, name = _open[-1], uow.actor.service
    request = read_csr(csr)
    if der is None or name is None or tls.spiffe_of(der) != tls.service_identity(desk.trust_domain, name):
        raise NothingToFollow
    shown = domain.enrolment.read_shown(x509.load_der_x509_certificate(der), name, uow.now)
    signer = desk.keys.get(shown.issuer_key)
    if signer is None:
        raise CannotDecide("The key that signed the certificate is not here.")
    intent = domain.enrolment.intend(shown, request, serial(), uow.now, desk.life, signer.certificate)
    async with desk.journal([Caller(uow.actor, uow.request_id)]) as (record,):
        record.session.add(intent)
        record.note(certificate_id=intent.certificate_id, kind="service", identity=tls.service_identity(desk.trust_domain, name))
    leaf = signer.sign(domain.enrolment.build(intent, shown, request, signer.certificate))
    certificate = await repository.enrolment.intent(uow.session, intent.certificate_id)
    domain.enrolment.issued(certificate, leaf, signer.pem)
    uow.note(issued=certificate.certificate_id, service=name, follows=shown.serial)
    await uow.session.flush()
    return certificate
