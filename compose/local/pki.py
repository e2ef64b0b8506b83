"""The set-up's certificate authorities: an offline root, three intermediates, and the services' short-lived certificates."""

import os
import secrets
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from compose.local.home import Home, keep
from compose.local.problems import SetupProblem

SERVICES, PEOPLE, WORKLOADS = "services", "people", "workloads"
ROOT_LIFETIME = timedelta(days=3650)
INTERMEDIATE_LIFETIME = timedelta(days=1825)
SERVICE_LIFETIME = timedelta(hours=72)
BACKDATE = timedelta(seconds=60)
PEM = serialization.Encoding.PEM


def _usage(*, signs: bool, issues: bool) -> x509.KeyUsage:
    """What a key is for: ``signs`` whatever is neither a certificate nor a list of revoked ones, which ``issues`` is about."""
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=issues,
        crl_sign=issues,
        encipher_only=False,
        decipher_only=False,
    )


LEAF_USAGE = _usage(signs=True, issues=False)
CA_USAGE = _usage(signs=False, issues=True)
RESPONDER_USAGE = _usage(signs=True, issues=True)  # `people` and `workloads` sign OCSP answers as well


class Pki:
    """The certificate authorities of one home.

    The root's key is kept encrypted, and its passphrase is not kept at all. The keys of the intermediates are encrypted
    PKCS#8; their passphrases lie in the home's secrets folder. The `services` key stays with the runner; the keys of
    `people` and `workloads` are the ca service's (its `HORTUS_ISSUERS_DIR`).
    """

    def __init__(self, home: Home, trust_domain: str) -> None:
        """Load the `services` issuer of ``home``; raises FileNotFoundError where there is none yet."""
        self.home = home
        self.trust_domain = trust_domain
        own = home.secrets / "pki"
        self._issuer = x509.load_pem_x509_certificate((own / "services.pem").read_bytes())
        passphrase = (own / "passphrase").read_bytes().strip()
        key = serialization.load_pem_private_key((own / "services.key").read_bytes(), passphrase)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SetupProblem(f"The key of the services issuer in {own} is not an elliptic-curve key; restore it or make a new home.")
        self._key = key

    @classmethod
    def create(cls, home: Home | Path, *, trust_domain: str = "hortus.internal", announce: Callable[[str], None] | None = None) -> Self:
        """The authorities of ``home``, made now where they are missing.

        ``HORTUS_ROOT_PASSPHRASE`` opens the root's key; without it one is made and told to ``announce``, once. A set-up
        that was cut off half-way is begun anew: the last file written is the one that says it is complete.
        """
        place = home if isinstance(home, Home) else Home(home)
        complete = place.secrets / "pki" / "complete"
        if not complete.exists():
            given = os.environ.get("HORTUS_ROOT_PASSPHRASE")
            passphrase = given or secrets.token_urlsafe(24)
            _make_authorities(place, passphrase.encode())
            if given is None and announce is not None:
                announce(passphrase)
            keep(complete, b"")
        return cls(place, trust_domain)

    @property
    def root(self) -> Path:
        """The root's certificate, PEM: what people and clients trust."""
        return self.home.trust / "root.pem"

    @property
    def client_issuers(self) -> Path:
        """The `people` and `workloads` intermediates in one PEM file: whom port 8444 trusts."""
        return self.home.trust / "client-issuers.pem"

    @property
    def services_anchor(self) -> Path:
        """The `services` intermediate, PEM: what services, broker and index trust."""
        return self.home.trust / "services.pem"

    @property
    def issuers_folder(self) -> Path:
        """The folder that the ca service signs from."""
        return self.home.secrets / "ca"

    def issue_service_certificate(
        self,
        name: str,
        folder: Path,
        *,
        dns: Iterable[str] = ("localhost",),
        addresses: Iterable[str] = ("127.0.0.1",),
        lifetime: timedelta = SERVICE_LIFETIME,
    ) -> None:
        """Write a new key and certificate for the service ``name`` into ``folder``.

        ``cert.pem`` is the leaf, then the `services` intermediate; ``key.pem`` unencrypted PKCS#8 (0600);
        ``services.pem`` the trust anchor. P-256, SHA-256, backdated 60 s, a serial of 128 random bits, the SAN
        ``spiffe://<domain>/service/<name>`` beside ``dns`` and ``addresses``.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}/service/{name}")]
        alternatives += [x509.DNSName(entry) for entry in dns]
        alternatives += [x509.IPAddress(ip_address(entry)) for entry in addresses]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(self._issuer.subject)
            .public_key(key.public_key())
            .serial_number(_serial())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(min(now + lifetime, self._issuer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(LEAF_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        plain = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        keep(folder / "key.pem", plain)
        keep(folder / "cert.pem", certificate.public_bytes(PEM) + self._issuer.public_bytes(PEM), 0o644)
        keep(folder / "services.pem", self._issuer.public_bytes(PEM), 0o644)


def _make_authorities(home: Home, root_passphrase: bytes) -> None:
    own, issuers = home.secrets / "pki", home.secrets / "ca"
    for folder in (own, issuers):
        folder.mkdir(exist_ok=True, mode=0o700)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = _authority("Hortus root", root_key, None, root_key, ROOT_LIFETIME)
    keep(own / "root.key", _sealed(root_key, root_passphrase))
    certificates = {}
    for place, names in ((own, (SERVICES,)), (issuers, (PEOPLE, WORKLOADS))):
        passphrase = secrets.token_urlsafe(32).encode()
        keep(place / "passphrase", passphrase)
        keep(place / "root.pem", root.public_bytes(PEM))
        for name in names:
            key = ec.generate_private_key(ec.SECP256R1())
            usage = CA_USAGE if name == SERVICES else RESPONDER_USAGE
            certificate = _authority(f"Hortus {name}", key, root, root_key, INTERMEDIATE_LIFETIME, usage)
            certificates[name] = certificate.public_bytes(PEM)
            keep(place / f"{name}.key", _sealed(key, passphrase))
            keep(place / f"{name}.pem", certificates[name])
    keep(home.trust / "services.pem", certificates[SERVICES], 0o644)
    keep(home.trust / "client-issuers.pem", certificates[PEOPLE] + certificates[WORKLOADS], 0o644)
    keep(home.trust / "root.pem", root.public_bytes(PEM), 0o644)


def _authority(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    lifetime: timedelta,
    usage: x509.KeyUsage = CA_USAGE,
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer.subject if issuer else _name(name))
        .public_key(key.public_key())
        .serial_number(_serial())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if issuer else 1), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hortus"), x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _serial() -> int:
    return secrets.randbits(128) + 1


def _sealed(key: ec.EllipticCurvePrivateKey, passphrase: bytes) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(passphrase))
