"""What an issuer says of one of its certificates, asked and checked as software that knows nothing of Hortus does it.

By OCSP (RFC 6960) and by the list of revoked certificates (CRL, RFC 5280), at the addresses that the certificate itself names.
Nothing is believed that the issuer has not signed, or that is not about this certificate, or that is older than it may be.
"""

import secrets
import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from hortus.client.errors import Altered, HortusError, Unreachable

NONCE_BYTES = 16
OCSP_REQUEST = "application/ocsp-request"


@dataclass(frozen=True)
class Places:
    """Where the status of a certificate is told."""

    ocsp: str
    crl: str


@dataclass(frozen=True)
class Told:
    """What was told: ``good``, ``revoked`` or ``unknown``; since when and why; and until when that holds (RFC 3339)."""

    status: str
    until: str
    revoked_at: str | None = None
    reason: str | None = None


def places(leaf: x509.Certificate) -> Places:
    """The addresses in a certificate. Raises HortusError when it names none."""
    try:
        access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        points = leaf.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound as error:
        raise HortusError("The certificate does not say where its status is told.") from error
    told = [each.access_location.value for each in access if each.access_method == AuthorityInformationAccessOID.OCSP]
    lists = [name.value for point in points for name in point.full_name or []]
    if not told or not lists:
        raise HortusError("The certificate does not say where its status is told.")
    return Places(told[0], lists[0])


def question(leaf: x509.Certificate, issuer: x509.Certificate) -> tuple[bytes, bytes]:
    """An OCSP request about a certificate, and the nonce that has to come back."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    made = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256())
    return made.add_extension(x509.OCSPNonce(nonce), critical=False).build().public_bytes(serialization.Encoding.DER), nonce


def answered(der: bytes, leaf: x509.Certificate, issuer: x509.Certificate, nonce: bytes, now: datetime | None = None) -> Told:
    """What an OCSP answer says. Raises Altered when it is not this issuer's answer to this question, at this time, and Unreachable when it is none yet."""
    try:
        answer = ocsp.load_der_ocsp_response(der)
        if answer.response_status is ocsp.OCSPResponseStatus.TRY_LATER:
            raise Unreachable("The OCSP responder cannot tell at this moment: ask again.")
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise Altered(f"The OCSP responder gave no answer: {answer.response_status.name}.")
        _signed(issuer, answer.signature, answer.tbs_response_bytes, answer.signature_hash_algorithm)
        if answer.serial_number != leaf.serial_number or answer.issuer_key_hash != _key_hash(issuer, answer.hash_algorithm):
            raise Altered("The OCSP answer is about another certificate.")
        if answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce != nonce:
            raise Altered("The OCSP answer is to another question.")
        until = answer.next_update_utc
        _current(answer.this_update_utc, until, now, "OCSP answer")
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise Altered("The OCSP answer cannot be read.") from error
    if answer.certificate_status is not ocsp.OCSPCertStatus.REVOKED:
        return Told(answer.certificate_status.name.lower(), _text(until))
    return Told("revoked", _text(until), _text(answer.revocation_time_utc), answer.revocation_reason and answer.revocation_reason.value)


def listed(der: bytes, leaf: x509.Certificate, issuer: x509.Certificate, now: datetime | None = None) -> Told:
    """What a list of revoked certificates says of one. Raises Altered when it is not this issuer's list, or is out of date."""
    try:
        found = x509.load_der_x509_crl(der)
        if found.issuer != issuer.subject:
            raise Altered("The list of revoked certificates is another issuer's.")
        _signed(issuer, found.signature, found.tbs_certlist_bytes, found.signature_hash_algorithm)
        _current(found.last_update_utc, found.next_update_utc, now, "list of revoked certificates")
        entry = found.get_revoked_certificate_by_serial_number(leaf.serial_number)
    except (ValueError, TypeError) as error:
        raise Altered("The list of revoked certificates cannot be read.") from error
    if entry is None:
        return Told("good", _text(found.next_update_utc))
    return Told("revoked", _text(found.next_update_utc), _text(entry.revocation_date_utc), _reason(entry))


def lines(leaf: x509.Certificate, chain: Path, trust: Path) -> list[str]:
    """Commands that ask the same with openssl and curl."""
    where = places(leaf)
    certificate, root = shlex.quote(str(chain)), shlex.quote(str(trust))
    split = f"awk '/BEGIN/{{n++}} n==2' {certificate} > issuer.pem"
    return [
        split,
        f"openssl ocsp -sha256 -issuer issuer.pem -cert {certificate} -no_nonce -reqout request.der",
        f"curl --cacert {root} -H 'Content-Type: {OCSP_REQUEST}' --data-binary @request.der {shlex.quote(where.ocsp)} -o answer.der",
        f"openssl ocsp -sha256 -issuer issuer.pem -cert {certificate} -verify_other issuer.pem -CAfile {root} -no_nonce -respin answer.der",
        f"curl --cacert {root} {shlex.quote(where.crl)} -o list.der",
        "openssl crl -inform DER -in list.der -out list.pem",
        f"openssl verify -crl_check -CAfile {root} -untrusted issuer.pem -CRLfile list.pem {certificate}",
    ]


def _signed(issuer: x509.Certificate, signature: bytes, content: bytes, algorithm: hashes.HashAlgorithm | None) -> None:
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or algorithm is None:
        raise Altered("The issuer's key is of another kind than Hortus's issuers have.")
    try:
        key.verify(signature, content, ec.ECDSA(algorithm))
    except InvalidSignature as error:
        raise Altered("What is told of the certificate is not signed by its issuer.") from error


def _current(since: datetime, until: datetime | None, now: datetime | None, what: str) -> None:
    at = now or datetime.now(UTC)
    if until is None or at >= until:
        raise Altered(f"The {what} is out of date.")
    if (since - at).total_seconds() > 60:  # noqa: PLR2004 - what clocks may differ by
        raise Altered(f"The {what} is from the future: look at this machine's clock.")


def _key_hash(issuer: x509.Certificate, algorithm: hashes.HashAlgorithm) -> bytes:
    form = serialization.PublicFormat.UncompressedPoint
    digest = hashes.Hash(algorithm)
    digest.update(issuer.public_key().public_bytes(serialization.Encoding.X962, form))
    return digest.finalize()


def _reason(entry: Any) -> str | None:
    try:
        reason: str = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value
    except x509.ExtensionNotFound:
        return None
    return reason


def _text(at: datetime | None) -> str:
    return at.isoformat() if at is not None else ""
