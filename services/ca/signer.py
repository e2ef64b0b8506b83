"""The signer port: what can sign for an issuer. Here its first implementation, an encrypted key file."""

from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import ocsp

UNREADABLE = (OSError, ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.ExtensionNotFound)


class IssuerUnusable(Exception):
    """An issuer's files do not fit together; the service does not start with them."""


class Signer(Protocol):
    """An issuer that signs, always with SHA-256. ``certificate`` is the issuer's own; the key behind it never leaves the signer."""

    @property
    def certificate(self) -> x509.Certificate:
        """The issuer's certificate."""

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Sign a certificate."""

    def sign_list(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        """Sign a list of revoked certificates."""

    def sign_answer(self, builder: ocsp.OCSPResponseBuilder) -> ocsp.OCSPResponse:
        """Sign an answer about one certificate."""


class FileSigner:
    """Signs with a P-256 key from an encrypted PKCS#8 file.

    Any implementation of ``EllipticCurvePrivateKey`` will do: of the key only its public half is read and ``sign`` is called.
    """

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @property
    def certificate(self) -> x509.Certificate:
        """The issuer's certificate."""
        return self._certificate

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        """Sign a certificate."""
        return builder.sign(self._key, hashes.SHA256())

    def sign_list(self, builder: x509.CertificateRevocationListBuilder) -> x509.CertificateRevocationList:
        """Sign a list of revoked certificates."""
        return builder.sign(self._key, hashes.SHA256())

    def sign_answer(self, builder: ocsp.OCSPResponseBuilder) -> ocsp.OCSPResponse:
        """Sign an answer about one certificate."""
        return builder.sign(self._key, hashes.SHA256())


def open_file(folder: Path, name: str) -> FileSigner:
    """The issuer ``name`` in a folder with ``<name>.pem``, ``<name>.key``, ``root.pem`` and ``passphrase``.

    Raises IssuerUnusable when the key is of another kind, is not the certificate's, or the certificate is no CA of the root.
    """
    try:
        passphrase = (folder / "passphrase").read_bytes().strip()
        certificate = x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes())
        root = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
        key = load_pem_private_key((folder / f"{name}.key").read_bytes(), passphrase)
        certificate.verify_directly_issued_by(root)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except UNREADABLE as error:
        raise IssuerUnusable(f"The issuer {name} cannot be opened: {type(error).__name__}.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IssuerUnusable(f"The key of the issuer {name} is not on P-256.")
    if key.public_key() != certificate.public_key():
        raise IssuerUnusable(f"The key of the issuer {name} is not the one in its certificate.")
    if not constraints.ca:
        raise IssuerUnusable(f"The certificate of {name} is not that of an issuer.")
    return FileSigner(certificate, key)
