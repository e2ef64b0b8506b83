"""Keys and certificate requests: P-256; who the certificate speaks for is decided by ca."""

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chassis.pairs import life_of


@dataclass(frozen=True)
class Request:
    """A private key and a request for a certificate of it, both PEM."""

    key: str
    csr: str


def fresh() -> Request:
    """A new key and its request."""
    return ask_again(_pem(ec.generate_private_key(ec.SECP256R1())))


def ask_again(key: str) -> Request:
    """A new request of a key that exists."""
    private = serialization.load_pem_private_key(key.encode(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise TypeError("the key is not of an elliptic curve")
    made = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(private, hashes.SHA256())
    return Request(key, made.public_bytes(serialization.Encoding.PEM).decode())


def past_half_life(chain: str) -> bool:
    """Whether half of a certificate's time is over."""
    return datetime.now(UTC) > life_of(x509.load_pem_x509_certificates(chain.encode())[0]).half


def _pem(private: ec.EllipticCurvePrivateKey) -> str:
    encoding = serialization.Encoding.PEM
    return private.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
