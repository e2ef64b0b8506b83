"""What an issuer says of one of its certificates, asked and checked as software that knows nothing of Hortus does it: ``ask(chain, trust)``.

By OCSP (RFC 6960) and by the list of revoked certificates (CRL, RFC 5280), at the addresses that the certificate itself names.
Nothing is believed that the issuer has not signed, or that is not about this certificate, or that is older than it may be.
"""

import secrets
import shlex
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from hortus.client.errors import Altered, HortusError, Unreachable

NONCE_BYTES = 16
OCSP_REQUEST = "application/ocsp-request"
SECONDS = 15.0


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


def ask(chain: Sequence[x509.Certificate], trust: Path) -> dict[str, Told]:
    """What the OCSP responder (``OCSP``) and the list (``CRL``) of a certificate's issuer say of it now.

    ``chain``: the certificate, its issuer, and what else came with it; ``trust``: a PEM file with the roots. Raises HortusError: Altered for what cannot be believed,
    Unreachable where nobody answers.
    """
    leaf, issuer = leaf_and_issuer(chain, trust)
    where = places(leaf)
    request, nonce = question(leaf, issuer)
    return {
        "OCSP": answered(_fetched(where.ocsp, trust, request), leaf, issuer, nonce),
        "CRL": listed(_fetched(where.crl, trust), leaf, issuer),
    }


def leaf_and_issuer(chain: Sequence[x509.Certificate], trust: Path) -> tuple[x509.Certificate, x509.Certificate]:
    """A chain's certificate and the issuer that signed it, which a trusted root certified, or a newer root that a trusted one certified. Raises HortusError."""
    try:
        roots = x509.load_pem_x509_certificates(trust.read_bytes())
    except (OSError, ValueError) as error:
        raise HortusError(f"{trust} holds no roots to trust.") from error
    for bridge in reversed(chain[2:]):
        if bridge.subject == bridge.issuer and _is_by(bridge, roots):
            roots.append(bridge)
    if len(chain) < 2 or not _is_by(chain[0], chain[1:2]) or not _is_by(chain[1], roots):  # noqa: PLR2004 - itself and its issuer
        raise Altered("The certificate is not by an issuer of a trusted root.")
    return chain[0], chain[1]


def _is_by(certificate: x509.Certificate, issuers: Iterable[x509.Certificate]) -> bool:
    for issuer in issuers:
        try:
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def _fetched(address: str, trust: Path, request: bytes | None = None) -> bytes:
    """What an address in a certificate answers: to a POST of an OCSP request, or a GET. Raises Unreachable or Altered."""
    context = ssl.create_default_context(cafile=str(trust))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        with httpx2.Client(verify=context, timeout=SECONDS, trust_env=False) as http:
            answer = http.get(address) if request is None else http.post(address, content=request, headers={"Content-Type": OCSP_REQUEST})
    except httpx2.HTTPError as error:
        raise Unreachable(f"{address} does not answer: {type(error).__name__}.") from error
    if answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE:
        raise Unreachable(f"{address} cannot tell at this moment: ask again.")
    if answer.status_code != httpx2.codes.OK:
        raise Altered(f"{address} answered {answer.status_code}.")
    return answer.content


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
        f"curl -f --cacert {root} -H 'Content-Type: {OCSP_REQUEST}' --data-binary @request.der {shlex.quote(where.ocsp)} -o answer.der",
        f"openssl ocsp -sha256 -issuer issuer.pem -cert {certificate} -verify_other {certificate} -CAfile {root} -no_nonce -respin answer.der",
        f"curl -f --cacert {root} {shlex.quote(where.crl)} -o list.der",
        "openssl crl -inform DER -in list.der -out list.pem",
        f"openssl verify -crl_check -CAfile {root} -untrusted {certificate} -CRLfile list.pem {certificate}",
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
