"""The signer port: what can sign for an issuer. Its implementations: encrypted key files, and a PKCS#11 token."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp

from chassis.errors import CannotDecide

PROBE = b"probe"
SHA256 = ec.ECDSA(hashes.SHA256())


class IssuerUnusable(Exception):
    """An issuer's files do not fit together; the service does not start with them."""


class SignerAway(CannotDecide):
    """What holds the issuer's key does not answer at this moment."""

    title = "The issuer's key cannot be reached at this moment"


class Keys(Protocol):
    """What holds the issuers' private keys, which never leave it. ``slow``: signing waits for something else than this processor."""

    slow: bool

    def key(self, name: str, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        """The key ``name``, whose certificate this is: of it, only ``sign`` is called. Raises IssuerUnusable."""


@dataclass(frozen=True)
class Signer:
    """One key of an issuer that signs, always with SHA-256. ``name`` is the issuer's, from the second key on with a number: ``people-2``.

    ``pem`` is what comes behind its certificates in their chains: the issuer's own, then newer roots as older ones certified them. ``slow`` as in ``Keys``.
    """

    name: str
    issuer: str
    certificate: x509.Certificate
    pem: str = field(repr=False)
    _key: ec.EllipticCurvePrivateKey = field(repr=False)
    slow: bool

    @cached_property
    def key_id(self) -> str:
        """What certificates remember of the key that signed them: the SHA-1 of its public half in hex (RFC 5280 section 4.2.1.2)."""
        public = self.certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return hashlib.sha1(public).hexdigest()  # noqa: S324 - a name, no protection

    def trouble(self) -> str:
        """Why it cannot sign at this moment, in words; empty when it can. It signs something that is thrown away, and its certificate has to agree."""
        public = self.certificate.public_key()
        try:
            public.verify(self._key.sign(PROBE, SHA256), PROBE, SHA256)  # type: ignore[union-attr,call-arg,arg-type]
        except SignerAway as away:
            return away.detail
        except InvalidSignature:
            return f"the key of the issuer {self.name} is not the one in its certificate"
        return ""

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Sign a certificate. Raises SignerAway."""
        return builder.sign(self._key, hashes.SHA256())

    def sign_list(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        """Sign a list of revoked certificates. Raises SignerAway."""
        return builder.sign(self._key, hashes.SHA256())

    def sign_answer(self, builder: ocsp.OCSPResponseBuilder) -> ocsp.OCSPResponse:
        """Sign an answer about one certificate. Raises SignerAway."""
        return builder.sign(self._key, hashes.SHA256())


@dataclass(frozen=True)
class Issuers:
    """The keys of all issuers. ``signers`` are those that were ever used here and did not end, by name; ``current`` is who signs certificates now."""

    signers: Mapping[str, Signer]
    current: Mapping[str, Signer]

    def ends(self) -> dict[str, datetime]:
        """When the certificates end that the issuers sign with now."""
        return {issuer: signer.certificate.not_valid_after_utc for issuer, signer in self.current.items()}

    def others(self) -> list[Signer]:
        """The keys that sign no certificates now, and answer for those that they signed."""
        return [signer for signer in self.signers.values() if signer not in self.current.values()]
