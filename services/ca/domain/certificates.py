"""What stands in a certificate and how long it counts."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from chassis.csr import Request
from chassis.errors import Conflict
from contracts import events
from contracts.events import CertificateKind
from contracts.roles import Actor, Role
from services.ca.domain import profiles
from services.ca.domain.holders import Holder
from services.ca.models import Certificate, CertificateState, Ending, Intent, Issuer

MOST_LIVE = 100
SIGNED_BY = {
    CertificateKind.PROJECT: Issuer.PEOPLE,
    CertificateKind.JOB: Issuer.WORKLOADS,
    CertificateKind.AGENT: Issuer.WORKLOADS,
}


class TooManyCertificates(Conflict):
    """One person holds more certificates of one project than anybody needs."""

    title = "Too many of your certificates are in use; revoke some"


@dataclass(frozen=True)
class Terms:
    """How this authority issues: the SPIFFE trust domain and how long each kind of certificate lives at most.

    ``doors``: the address below which everybody reaches this service's doors; certificates do not name it where it is empty.
    """

    trust_domain: str
    project_life: timedelta
    job_life: timedelta
    agent_life: timedelta
    doors: str = ""

    def life(self, kind: CertificateKind) -> timedelta:
        """The longest life of a kind."""
        return {
            CertificateKind.PROJECT: self.project_life,
            CertificateKind.JOB: self.job_life,
            CertificateKind.AGENT: self.agent_life,
        }[kind]


def seen_by(actor: Actor) -> UUID | None:
    """Whose certificates of the project an actor sees: the own ones, or everybody's (None) as a Data Owner."""
    return None if actor.role is Role.DATA_OWNER else actor.user_id


def is_own(certificate: Certificate, actor: Actor) -> bool:
    """Condition.CERTIFICATE_IS_OWN: whether an actor may revoke a certificate of their project."""
    return actor.role is Role.DATA_OWNER or (certificate.user_id is not None and certificate.user_id == actor.user_id)


def has_room(live: int) -> None:
    """Bound the live certificates of one person in one project. Raises TooManyCertificates."""
    if live >= MOST_LIVE:
        raise TooManyCertificates


@dataclass(frozen=True)
class Authority:
    """What certificates take from the key that signs them: its name, its id, what comes behind them in a chain, and what stands in all of them alike."""

    name: str
    key_id: str
    pem: str
    ends: datetime
    subject: x509.Name
    extensions: tuple[x509.Extension[Any], ...]


def authority(name: str, key_id: str, issuer: x509.Certificate, pem: str, terms: Terms) -> Authority:
    """The authority of an issuer's key. Its certificates are for clients alone (RFC 5280 section 4.2).

    They name where their issuer, their status and the issuer's list are (sections 4.2.2.1 and 4.2.1.13), if that is known.
    """
    extensions = [
        _alike(profiles.NO_ISSUER, critical=True),
        _alike(profiles.USAGE, critical=True),
        _alike(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])),
        _alike(profiles.signed_by(issuer)),
    ]
    if terms.doors:
        extensions += _places(name, terms.doors)
    return Authority(name, key_id, pem, issuer.not_valid_after_utc, issuer.subject, tuple(extensions))


def _alike(value: x509.ExtensionType, *, critical: bool = False) -> x509.Extension[Any]:
    """An extension that is put into DER once."""
    return x509.Extension(value.oid, critical, x509.UnrecognizedExtension(value.oid, value.public_bytes()))


def _places(issuer: str, doors: str) -> list[x509.Extension[Any]]:
    status, certificate, revoked = (
        x509.UniformResourceIdentifier(f"{doors}/{door}") for door in ("ocsp", f"issuers/{issuer}", f"crls/{issuer}")
    )
    access = [
        x509.AccessDescription(AuthorityInformationAccessOID.OCSP, status),
        x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, certificate),
    ]
    point = x509.DistributionPoint(full_name=[revoked], relative_name=None, reasons=None, crl_issuer=None)
    return [_alike(x509.AuthorityInformationAccess(access)), _alike(x509.CRLDistributionPoints([point]))]


def intend(
    holder: Holder, request: Request, number: int, now: datetime, terms: Terms, issuer: Authority, ends_at: datetime | None = None
) -> Intent:
    """The intent to issue, before anything is signed.

    It begins 60 s ago and ends with its kind's life or its issuer, whichever is first. The right behind it ends at ``ends_at``: a person's certificate
    says so itself, and the next one may say more; a run has one alone, which lives on when the membership is prolonged.
    """
    ends = [now + terms.life(holder.kind), issuer.ends]
    if ends_at is not None and holder.kind is CertificateKind.PROJECT:
        ends.append(ends_at)
    return Intent(
        certificate_id=profiles.certificate_id(number),
        kind=holder.kind,
        project_id=holder.project_id,
        user_id=holder.user_id,
        agent_id=holder.agent_id,
        run_id=holder.run_id,
        fencing_token=holder.fencing_token,
        csr_sha256=request.sha256,
        issuer_key=issuer.key_id,
        not_before=profiles.begins(now),
        not_after=min(ends).replace(microsecond=0),
        created_at=now,
        right_ends_at=ends_at,
    )


def build(intent: Intent, holder: Holder, request: Request, issuer: Authority, terms: Terms) -> x509.CertificateBuilder:
    """The certificate to sign: a client's leaf with one SPIFFE URI."""
    uri = x509.UniformResourceIdentifier(holder.uri(terms.trust_domain))
    own = (x509.SubjectKeyIdentifier(request.key_id), x509.SubjectAlternativeName([uri]))
    return x509.CertificateBuilder(
        issuer.subject,
        profiles.subject(holder.common_name),
        request.public_key,
        int(intent.certificate_id, 16),
        intent.not_before.replace(tzinfo=None),
        intent.not_after.replace(tzinfo=None),
        [*issuer.extensions, *(x509.Extension(value.oid, critical=False, value=value) for value in own)],
    )


def issued(intent: Intent, leaf: x509.Certificate, issuer: Authority) -> events.Certificate:
    """Turn an intent into a certificate that counts."""
    intent.live = True
    intent.version = 1
    intent.fingerprint = hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest()
    intent.chain = leaf.public_bytes(Encoding.PEM).decode() + issuer.pem
    return fact_of(intent)


def lapses(certificate: Certificate) -> tuple[datetime, Ending]:
    """When a certificate stops counting by itself, and why: at its end, or before at that of the membership behind it."""
    ends = certificate.right_ends_at
    if ends is not None and ends < certificate.not_after:
        return ends, Ending.MEMBERSHIP_ENDED
    return certificate.not_after, Ending.EXPIRED


def revoke(certificate: Certificate, ending: Ending, now: datetime) -> events.Certificate | None:
    """End a certificate; None when it does not count anyway."""
    if not certificate.live:
        return None
    certificate.state = CertificateState.REVOKED
    certificate.version += 1
    certificate.ended_at = now
    certificate.ending = ending
    return fact_of(certificate)


def strip(certificate: Certificate) -> events.Certificate:
    """Take the chain of a revoked certificate away: it holds the names of its project and its person."""
    certificate.chain = ""
    certificate.version += 1
    return fact_of(certificate)


def fact_of(certificate: Certificate | Intent) -> events.Certificate:
    """The public state of a certificate; its chain, which holds names, as long as it counts."""
    return events.Certificate(
        certificate_id=certificate.certificate_id,
        version=certificate.version,
        kind=CertificateKind(certificate.kind),
        fingerprint=certificate.fingerprint,
        project_id=certificate.project_id,
        user_id=certificate.user_id,
        agent_id=certificate.agent_id,
        run_id=certificate.run_id,
        fencing_token=certificate.fencing_token,
        csr_sha256=certificate.csr_sha256,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        live=certificate.live,
        chain=certificate.chain if certificate.live else "",
    )
