"""What all certificates have in common that ca signs: numbers, names, the moment they begin, and what their keys are for."""

from datetime import datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import NameOID

BACKDATE = timedelta(seconds=60)
SERIAL_BITS = 128
ORGANIZATION = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hortus")
NO_ISSUER = x509.BasicConstraints(ca=False, path_length=None)
USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def serial(random: int) -> int | None:
    """A serial number of 128 random bits that has exactly 32 hex digits; None when another draw is needed."""
    return random if random >> (SERIAL_BITS - 4) else None


def certificate_id(number: int) -> str:
    """A serial number as 32 hex digits."""
    return f"{number:032x}"


def begins(now: datetime) -> datetime:
    """When a certificate or a list that is made now begins: a minute ago, for clocks that are behind."""
    return (now - BACKDATE).replace(microsecond=0)


def subject(common_name: str) -> x509.Name:
    """The name of whom a certificate is for."""
    return x509.Name([ORGANIZATION, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def signed_by(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """Which key signs it (RFC 5280 section 4.2.1.1)."""
    key = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key)
