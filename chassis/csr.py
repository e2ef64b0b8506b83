"""Which certificate signing requests are good: the one reader of those that agents, services and people send."""

import hashlib
import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import SignatureAlgorithmOID

from chassis.errors import Unprocessable

CSR_MAX = 8192
PEM_BLOCK = re.compile(r"\s*-----BEGIN (?P<label>(?:NEW )?CERTIFICATE REQUEST)-----[A-Za-z0-9+/=\s]+-----END (?P=label)-----\s*")
STRONG = {
    SignatureAlgorithmOID.ECDSA_WITH_SHA256: ec.ECDSA(hashes.SHA256()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA384: ec.ECDSA(hashes.SHA384()),
    SignatureAlgorithmOID.ECDSA_WITH_SHA512: ec.ECDSA(hashes.SHA512()),
}


class CsrRefused(Unprocessable):
    """The certificate signing request cannot be answered with a certificate."""

    title = "The certificate signing request is not valid"


@dataclass(frozen=True)
class Request:
    """What counts in a CSR: the key that the sender holds and its identifier (RFC 5280 section 4.2.1.2), and the hash of the request for telling repeats."""

    public_key: ec.EllipticCurvePublicKey
    key_id: bytes
    sha256: str


def read_csr(pem: str) -> Request:
    """The request in a PEM text (RFC 2986): one block, a P-256 key, and a signature by it. Raises CsrRefused."""
    if "PRIVATE KEY" in pem:
        raise CsrRefused("This holds a private key; a private key never leaves its machine. Send the request alone and make a new key.")
    if len(pem) > CSR_MAX:
        raise CsrRefused(f"A request has at most {CSR_MAX} characters.")
    if PEM_BLOCK.fullmatch(pem) is None:
        raise CsrRefused("Send one PEM block that begins with -----BEGIN CERTIFICATE REQUEST-----.")
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        key, algorithm = csr.public_key(), STRONG.get(csr.signature_algorithm_oid)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CsrRefused("The request cannot be read.") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise CsrRefused("The key of the request is not an elliptic-curve key on P-256.")
    if algorithm is None:
        raise CsrRefused("The request is not signed by ECDSA with SHA-256 or stronger.")
    try:
        key.verify(csr.signature, csr.tbs_certrequest_bytes, algorithm)
    except InvalidSignature as error:
        raise CsrRefused("The request is not signed by the key that it names.") from error
    return Request(key, x509.SubjectKeyIdentifier.from_public_key(key).digest, hashlib.sha256(csr.public_bytes(Encoding.DER)).hexdigest())
