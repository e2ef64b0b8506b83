"""The set-up's certificate authorities, and the services' short-lived certificates."""

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
from cryptography.x509.oid import ExtendedKeyUsageOID

from chassis import pairs
from compose.local import authorities, ceremony
from compose.local.home import Home, keep
from compose.local.problems import SetupProblem

SERVICE_LIFETIME = timedelta(hours=72)
PEM = serialization.Encoding.PEM
LEAF_USAGE = authorities.usage(signs=True, issues=False)


class Pki:
    """The certificate authorities of one home.

    The root's key is kept encrypted, and its passphrase is not kept at all. The keys of the intermediates are encrypted
    PKCS#8; their passphrases lie in the home's secrets folder. The keys of `people` and `workloads` are the ca service's (its
    `HORTUS_ISSUERS_DIR`); that of `services` the runner and ca share (`HORTUS_SERVICES_ISSUER_DIR`).
    """

    def __init__(self, home: Home, trust_domain: str) -> None:
        """Load the `services` issuer of ``home``; raises FileNotFoundError where there is none yet."""
        self.home = home
        self.trust_domain = trust_domain
        self.service_lifetime = SERVICE_LIFETIME
        own = home.secrets / "pki"
        newest = (authorities.names(home, authorities.SERVICES) or [authorities.SERVICES])[-1]
        self._above = (own / f"{newest}.pem").read_bytes()
        self._issuer = x509.load_pem_x509_certificate(self._above)
        passphrase = (own / "passphrase").read_bytes().strip()
        key = serialization.load_pem_private_key((own / f"{newest}.key").read_bytes(), passphrase)
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
            ceremony.set_up(place, passphrase.encode())
            if given is None and announce is not None:
                announce(passphrase)
            keep(complete, b"")
        authorities.write_trust(place)
        return cls(place, trust_domain)

    @property
    def root(self) -> Path:
        """The root's certificate, PEM: what people and clients trust."""
        return self.home.trust / "root.pem"

    @property
    def client_issuers(self) -> Path:
        """The `people` and `workloads` intermediates that did not end, in one PEM file: whom port 8444 trusts."""
        return self.home.trust / "client-issuers.pem"

    @property
    def services_anchor(self) -> Path:
        """The `services` intermediates that did not end, PEM: what services, broker and index trust."""
        return self.home.trust / "services.pem"

    @property
    def issuers_folder(self) -> Path:
        """The folder that the ca service signs from."""
        return self.home.secrets / "ca"

    @property
    def services_issuer_folder(self) -> Path:
        """The folder with the `services` issuer, from which the runner signs, and ca when a running service renews its certificate."""
        return self.home.secrets / "pki"

    def issue_service_certificate(
        self,
        name: str,
        folder: Path,
        *,
        dns: Iterable[str] = ("localhost",),
        addresses: Iterable[str] = ("127.0.0.1",),
        lifetime: timedelta | None = None,
    ) -> None:
        """Write a new key and certificate for the service ``name`` into ``folder``, both in one step (chassis/pairs.py).

        ``cert.pem`` is the chain, ``key.pem`` unencrypted PKCS#8 (0600); ``services.pem`` the trust anchors.
        """
        key, chain = self.certify_service(name, dns=dns, addresses=addresses, lifetime=lifetime)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        keep(folder / "services.pem", self.services_anchor.read_bytes(), 0o644)
        pairs.write(folder, key, chain)

    def certify_service(
        self,
        name: str,
        *,
        dns: Iterable[str] = ("localhost",),
        addresses: Iterable[str] = ("127.0.0.1",),
        lifetime: timedelta | None = None,
    ) -> tuple[bytes, bytes]:
        """A new key (PKCS#8) and its chain for the service ``name``, PEM.

        The chain is the leaf, then the `services` intermediate, and each newer root as the one before certified it, where there are several.
        P-256, SHA-256, backdated 60 s, a serial of 128 random bits, the SAN ``spiffe://<domain>/service/<name>`` beside ``dns`` and
        ``addresses``; it lives for ``service_lifetime`` unless told otherwise.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"spiffe://{self.trust_domain}/service/{name}")]
        alternatives += [x509.DNSName(entry) for entry in dns]
        alternatives += [x509.IPAddress(ip_address(entry)) for entry in addresses]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(authorities.distinguished(name))
            .issuer_name(self._issuer.subject)
            .public_key(key.public_key())
            .serial_number(authorities.serial())
            .not_valid_before(now - authorities.BACKDATE)
            .not_valid_after(min(now + (lifetime or self.service_lifetime), self._issuer.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(LEAF_USAGE, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        plain = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return plain, authorities.pem(certificate) + self._above
