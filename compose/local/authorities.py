"""Authorities, as certificates: what stands in them, what they are called, and where they lie in a home.

An issuer's first certificate is ``people.pem``, that of its second key ``people-2.pem``, and so on: each is an authority of its own, and the ones
before stay trusted until they end. The roots lie in one file, the newest first; each but the first was also certified by the one before it, for
those who trust only that (RFC 4210 section 4.4 calls it ``newWithOld``). These bridges lie in one file, too, and behind an issuer in its own.
"""

import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from chassis.csr import CsrRefused, read_csr
from compose.local.home import Home, keep
from compose.local.problems import SetupProblem

ROOT, SERVICES, PEOPLE, WORKLOADS = "root", "services", "people", "workloads"
ISSUERS = (SERVICES, PEOPLE, WORKLOADS)
ROOT_LIFETIME = timedelta(days=3650)
INTERMEDIATE_LIFETIME = timedelta(days=1825)
BACKDATE = timedelta(seconds=60)
SOON = timedelta(days=90)
BRIDGES = "root-bridge.pem"
NAME = re.compile(rf"({'|'.join(ISSUERS)})(?:-([1-9][0-9]{{0,3}}))?")


def usage(*, signs: bool, issues: bool) -> x509.KeyUsage:
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


CA_USAGE = usage(signs=False, issues=True)
RESPONDER_USAGE = usage(signs=True, issues=True)  # `people` and `workloads` sign OCSP answers as well


def distinguished(common_name: str) -> x509.Name:
    """A name as all certificates here have it."""
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hortus"), x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def serial() -> int:
    """A serial number of 128 random bits."""
    return secrets.randbits(128) + 1


def certify(
    name: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    lifetime: timedelta,
    kind: str,
) -> x509.Certificate:
    """An authority's certificate: a root's for at most one level of authorities below it, an issuer's for none."""
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=1 if kind == ROOT else 0), critical=True)
        .add_extension(RESPONDER_USAGE if kind in (PEOPLE, WORKLOADS) else CA_USAGE, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def certify_request(pem: bytes, name: str, root: x509.Certificate, root_key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """The root's certificate for an issuer's request; of it, the key counts, which has to have signed it. Raises SetupProblem."""
    try:
        key = read_csr(pem.decode()).public_key
    except (CsrRefused, UnicodeDecodeError) as error:
        raise SetupProblem(f"The request for {name} cannot be used. {error}") from error
    return certify(distinguished(title(name)), key, root.subject, root_key, INTERMEDIATE_LIFETIME, kind_of(name))


def kind_of(name: str) -> str:
    """The issuer of a numbered name. Raises SetupProblem."""
    found = NAME.fullmatch(name)
    if found is None:
        raise SetupProblem(f"{name!r} is no issuer; there are {', '.join(ISSUERS)}.")
    return found[1]


def title(name: str) -> str:
    """What an authority is called in its certificate: ``Hortus people``, ``Hortus people 2``."""
    return f"Hortus {name.replace('-', ' ')}"


def folder_of(home: Home, issuer: str) -> Path:
    """Where an issuer's files lie: the runner's own, or those of the ca service."""
    return home.secrets / ("pki" if issuer == SERVICES else "ca")


def names(home: Home, issuer: str) -> list[str]:
    """The names of an issuer's certificates, the oldest first."""
    found = {
        int(match[2] or 1): file.stem
        for file in folder_of(home, issuer).glob("*.pem")
        if (match := NAME.fullmatch(file.stem)) and match[1] == issuer
    }
    return [found[number] for number in sorted(found)]


def next_name(home: Home, issuer: str) -> str:
    """What an issuer's next certificate is called; a key or request that was made for it already waits under that name."""
    last = NAME.fullmatch(names(home, issuer)[-1]) if names(home, issuer) else None
    return issuer if last is None else f"{issuer}-{int(last[2] or 1) + 1}"


def certificates(home: Home, issuer: str) -> list[x509.Certificate]:
    """An issuer's certificates that have not ended, the oldest first."""
    folder, now = folder_of(home, issuer), datetime.now(UTC)
    found = [x509.load_pem_x509_certificate((folder / f"{name}.pem").read_bytes()) for name in names(home, issuer)]
    return [certificate for certificate in found if certificate.not_valid_after_utc > now]


def every_root(home: Home) -> list[x509.Certificate]:
    """The roots that there ever were, the newest first."""
    return x509.load_pem_x509_certificates((home.secrets / "pki" / "root.pem").read_bytes())


def roots(home: Home) -> list[x509.Certificate]:
    """The roots that have not ended, the newest first."""
    now = datetime.now(UTC)
    return [certificate for certificate in every_root(home) if certificate.not_valid_after_utc > now]


def bridges(home: Home) -> list[x509.Certificate]:
    """Each root but the first, as the one before certified it, the newest first."""
    file, keys = home.secrets / "pki" / BRIDGES, [root.public_key() for root in every_root(home)]
    found = x509.load_pem_x509_certificates(file.read_bytes()) if file.exists() else []
    return [bridge for bridge in found if bridge.public_key() in keys]  # not what a renewal that was cut off left


def pem(*found: x509.Certificate) -> bytes:
    """Certificates in one PEM text."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in found)


def write_trust(home: Home, *coming: tuple[str, x509.Certificate]) -> None:
    """Write down who is trusted: everything here that has not ended, and what is ``coming``, by issuer, before it signs anything."""

    def trusted(issuer: str) -> list[x509.Certificate]:
        return [*certificates(home, issuer), *(certificate for name, certificate in coming if name == issuer)]

    keep(home.trust / "services.pem", pem(*trusted(SERVICES)), 0o644)
    keep(home.trust / "client-issuers.pem", pem(*trusted(PEOPLE), *trusted(WORKLOADS)), 0o644)
    keep(home.trust / "root.pem", pem(*roots(home)), 0o644)


@dataclass(frozen=True)
class Shown:
    """An authority as it is shown to people."""

    name: str
    ends: datetime
    fingerprint: str
    newest: bool

    @property
    def ends_soon(self) -> bool:
        """Whether it is time to renew it."""
        return self.newest and self.ends < datetime.now(UTC) + SOON


def shown(home: Home) -> Iterator[Shown]:
    """Every authority of a home, ended ones included, the newest of each first."""
    for number, each in enumerate(every_root(home)):
        yield _shown(ROOT if number == 0 else f"{ROOT} (before)", each, newest=number == 0)
    for issuer in ISSUERS:
        for number, name in enumerate(reversed(names(home, issuer))):
            certificate = x509.load_pem_x509_certificate((folder_of(home, issuer) / f"{name}.pem").read_bytes())
            yield _shown(name, certificate, newest=number == 0)


def _shown(name: str, certificate: x509.Certificate, *, newest: bool) -> Shown:
    return Shown(name, certificate.not_valid_after_utc, certificate.fingerprint(hashes.SHA256()).hex(), newest)


def ending_soon(home: Home) -> list[str]:
    """What somebody should look at: authorities that end within 90 days and have no successor."""
    return [
        f"{each.name} ends on {each.ends:%Y-%m-%d}; `make pki DO=renew{'-root' if each.name == ROOT else ''}`"
        for each in shown(home)
        if each.ends_soon
    ]
