"""What stands in the next certificate of a running service: the names of the one that it shows, and nothing of the request but its key."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from chassis.csr import Request
from chassis.errors import Unauthenticated
from services.ca.domain import profiles
from services.ca.models import CertificateState, ServiceCertificate


class NothingToFollow(Unauthenticated):
    """What is shown is no certificate of the service that asks, or has ended."""

    title = "The certificate that is shown renews nothing"


@dataclass(frozen=True)
class Shown:
    """A service's certificate as far as the next one follows it; ``issuer_key`` is the identifier of the key that signed it, in hex."""

    service: str
    serial: str
    issuer_key: str
    names: x509.SubjectAlternativeName


def read_shown(certificate: x509.Certificate, service: str, now: datetime) -> Shown:
    """What the certificate of a connection says of the service behind it. Its issuer was looked at in the handshake.

    It may have ended since; then it renews nothing. Raises NothingToFollow.
    """
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise NothingToFollow("It has ended; a start of the service makes a new one.")
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    signed_by = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    return Shown(service, f"{certificate.serial_number:032x}", (signed_by.key_identifier or b"").hex(), names)


def intend(shown: Shown, request: Request, number: int, now: datetime, life: timedelta, issuer: x509.Certificate) -> ServiceCertificate:
    """The intent to issue. It begins 60 s ago and ends with its life or its issuer."""
    return ServiceCertificate(
        certificate_id=profiles.certificate_id(number),
        service=shown.service,
        follows=shown.serial,
        csr_sha256=request.sha256,
        not_before=profiles.begins(now),
        not_after=min(now + life, issuer.not_valid_after_utc).replace(microsecond=0),
        created_at=now,
    )


def build(intent: ServiceCertificate, shown: Shown, request: Request, issuer: x509.Certificate) -> x509.CertificateBuilder:
    """The certificate to sign, as the set-up makes them: for a client and a server at once (RFC 5280 section 4.2)."""
    return (
        x509.CertificateBuilder()
        .subject_name(profiles.subject(shown.service))
        .issuer_name(issuer.subject)
        .public_key(request.public_key)
        .serial_number(int(intent.certificate_id, 16))
        .not_valid_before(intent.not_before)
        .not_valid_after(intent.not_after)
        .add_extension(profiles.NO_ISSUER, critical=True)
        .add_extension(profiles.USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(shown.names, critical=False)
        .add_extension(x509.SubjectKeyIdentifier(request.key_id), critical=False)
        .add_extension(profiles.signed_by(issuer), critical=False)
    )


def issued(intent: ServiceCertificate, leaf: x509.Certificate, above: str) -> None:
    """Turn an intent into a certificate that is handed out, with what comes behind it in its chain."""
    intent.state = CertificateState.LIVE
    intent.fingerprint = leaf.fingerprint(hashes.SHA256()).hex()
    intent.chain = leaf.public_bytes(Encoding.PEM).decode() + above
