"""What ca says of its certificates in the forms that other software reads: lists (CRL, RFC 5280) and answers (OCSP, RFC 6960).

An answer is about one certificate, because the library reads and writes one; requests of RFC 5019 (section 2.1.1) ask for no more.
Signatures of requests are not looked at: everybody may ask.
"""

import base64
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from services.ca.models import RevocationList

REQUEST_MAX = 4096
NONCE_MAX = 128
SERIAL_MAX = 1 << 160
ENTRIES_KEPT = 100_000
HASHES: tuple[hashes.HashAlgorithm, ...] = (hashes.SHA1(), hashes.SHA256())  # noqa: S303 - names an issuer (RFC 6960 section 4.3), protects nothing
UNREADABLE = (
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

IssuerName = tuple[str, bytes, bytes]
"""An issuer as a request names it: the hash algorithm, and by it the hashes of the issuer's name and key."""


class NoAnswer(Exception):
    """The responder gives no signed answer; ``der`` is what it says instead (RFC 6960 section 2.3)."""

    def __init__(self, status: ocsp.OCSPResponseStatus) -> None:
        super().__init__(status.name)
        self.der = ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)


class Malformed(NoAnswer):
    """What was sent is no request, or one of those that are not answered."""

    def __init__(self) -> None:
        super().__init__(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)


class NotOurs(NoAnswer):
    """The request is about another issuer, of which this responder can say nothing."""

    def __init__(self) -> None:
        super().__init__(ocsp.OCSPResponseStatus.UNAUTHORIZED)


class NotNow(NoAnswer):
    """What would have to be known for an answer is not known at this moment."""

    def __init__(self) -> None:
        super().__init__(ocsp.OCSPResponseStatus.TRY_LATER)


@dataclass(frozen=True)
class Question:
    """What an OCSP request asks: the status of an issuer's serial number; ``request`` names both in its own way."""

    issuer: str
    serial: int
    request: ocsp.OCSPRequest
    nonce: x509.OCSPNonce | None


@dataclass(frozen=True)
class Revoked:
    """When a certificate was revoked, and why, where that is known."""

    certificate_id: str
    at: datetime
    reason: x509.ReasonFlags | None


def names_of(certificates: Mapping[str, x509.Certificate]) -> dict[IssuerName, str]:
    """The issuers by each of their names in requests (RFC 6960 section 4.1.1)."""
    return {name: issuer for issuer, certificate in certificates.items() for name in _names(certificate)}


def _names(certificate: x509.Certificate) -> Iterator[IssuerName]:
    subject = certificate.subject.public_bytes()
    key = certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    for algorithm in HASHES:
        yield algorithm.name, hashlib.new(algorithm.name, subject).digest(), hashlib.new(algorithm.name, key).digest()


def from_path(text: str) -> bytes:
    """The request in the path of a GET (RFC 6960 appendix A.1). Raises Malformed."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise Malformed from error


def read(der: bytes, issuers: Mapping[IssuerName, str]) -> Question:
    """What a request asks. Raises Malformed, or NotOurs where the certificate is not one of these issuers'."""
    if len(der) > REQUEST_MAX:
        raise Malformed
    try:
        request = ocsp.load_der_ocsp_request(der)
        serial = request.serial_number
        nonce = _nonce(request.extensions)
        issuer = issuers.get((request.hash_algorithm.name, request.issuer_name_hash, request.issuer_key_hash))
    except UnsupportedAlgorithm as error:
        raise NotOurs from error
    except UNREADABLE as error:
        raise Malformed from error
    if not 0 <= serial < SERIAL_MAX:
        raise Malformed
    if issuer is None:
        raise NotOurs
    return Question(issuer, serial, request, nonce)


def _nonce(extensions: x509.Extensions) -> x509.OCSPNonce | None:
    """The nonce to repeat, of 1 to 128 bytes (RFC 9654 section 2.1); what is critical and not known is refused (RFC 6960 section 4.4)."""
    nonce = None
    for extension in extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            nonce = extension.value
        elif extension.critical:
            raise Malformed
    if nonce is not None and not 1 <= len(nonce.nonce) <= NONCE_MAX:
        raise Malformed
    return nonce


def answer(
    question: Question, issuer: x509.Certificate, found: Revoked | None, now: datetime, until: datetime, *, known: bool
) -> ocsp.OCSPResponseBuilder:
    """The answer to sign (RFC 6960 section 4.2.1), by the issuer itself (section 4.2.2.2).

    ``known``: the issuer issued such a certificate. ``found``: how it was revoked. It speaks of ``now`` and holds ``until`` then.
    """
    request = question.request
    status = ocsp.OCSPCertStatus.UNKNOWN
    if known:
        status = ocsp.OCSPCertStatus.GOOD if found is None else ocsp.OCSPCertStatus.REVOKED
    made = (
        ocsp.OCSPResponseBuilder()
        .add_response_by_hash(
            request.issuer_name_hash,
            request.issuer_key_hash,
            request.serial_number,
            request.hash_algorithm,
            status,
            now,
            until,
            found.at if found else None,
            found.reason if found else None,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, issuer)
    )
    return made if question.nonce is None else made.add_extension(question.nonce, critical=False)


def revocation_list(
    about: RevocationList, begins: datetime, entries: Iterable[Revoked], issuer: x509.Certificate
) -> x509.CertificateRevocationListBuilder:
    """The list to sign (RFC 5280 section 5), with its number and its issuer's key identifier. ``begins``: what it says of when it was made."""
    key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    made = x509.CertificateRevocationListBuilder(revoked_certificates=[_entry(each) for each in entries])  # one by one is quadratic
    return (
        made.issuer_name(issuer.subject)
        .last_update(begins)
        .next_update(about.next_update)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key), critical=False)
        .add_extension(x509.CRLNumber(about.number), critical=False)
    )


@functools.lru_cache(maxsize=ENTRIES_KEPT)
def _entry(revoked: Revoked) -> x509.RevokedCertificate:
    made = x509.RevokedCertificateBuilder().serial_number(int(revoked.certificate_id, 16)).revocation_date(revoked.at)
    if revoked.reason is not None:
        made = made.add_extension(x509.CRLReason(revoked.reason), critical=False)
    return made.build()
