"""Opening the issuers: their certificates lie in a folder, their keys wherever the settings say.

``people.pem`` is an issuer's first certificate, ``people-2.pem`` the one of its second key and so on: a renewal adds a file, and
the ones before stay for what they signed. Behind an issuer's certificate lie newer roots as older ones certified them. ``root.pem`` holds the roots.
"""

import re
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding

from services.ca.models import Issuer
from services.ca.settings import KeySettings
from services.ca.signer import Issuers, IssuerUnusable, Keys, Signer
from services.ca.signer.files import KeyFiles
from services.ca.signer.token import Token

UNREADABLE = (OSError, ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature, x509.ExtensionNotFound)
NAME = re.compile(r"([a-z]+)(?:-([1-9][0-9]{0,3}))?")
Seen = tuple[tuple[str, int, bool], ...]


def keys(settings: KeySettings) -> Keys:
    """What holds the keys: a PKCS#11 token where its module is named, files otherwise."""
    if settings.pkcs11_module is None:
        return KeyFiles(settings.issuers_dir)
    if settings.pkcs11_pin_file is None:
        raise IssuerUnusable("HORTUS_PKCS11_MODULE is set, and HORTUS_PKCS11_PIN_FILE is not.")
    return Token(settings.pkcs11_module, settings.pkcs11_token, settings.pkcs11_pin_file, settings.pkcs11_key_prefix)


def seen(folder: Path, rest_s: float) -> Seen:
    """What lies there: it changes when a certificate comes or goes, and when one has rested long enough to sign."""
    rested = time.time() - rest_s
    return tuple((name, file.stat().st_mtime_ns, file.stat().st_mtime <= rested) for _, _, name, file in _files(folder, tuple(Issuer)))


def open_issuers(folder: Path, keys: Keys, rest_s: float, issuers: Sequence[str] = tuple(Issuer)) -> Issuers:
    """These issuers in a folder. Raises IssuerUnusable when one has no certificate, or one that does not fit its key or the roots.

    A key that lies there as a file is that one; ``keys`` has the others. The newest certificate of an issuer signs once it has lain there for ``rest_s``, so that whoever has to trust it has read it.
    """
    now = datetime.now(UTC)
    rested = time.time() - rest_s
    signers: dict[str, Signer] = {}
    current: dict[str, Signer] = {}
    for issuer, _, name, file in _files(folder, issuers):
        certificate, pem = _certificate(folder, name, file)
        if certificate.not_valid_after_utc <= now and issuer in current:
            continue
        holder = KeyFiles(folder) if (folder / f"{name}.key").exists() else keys
        signers[name] = Signer(name, issuer, certificate, pem, holder.key(name, certificate), holder.slow)
        if issuer not in current or current[issuer].certificate.not_valid_after_utc <= now or file.stat().st_mtime <= rested:
            current[issuer] = signers[name]
    for issuer in issuers:
        if issuer not in current:
            raise IssuerUnusable(f"The issuer {issuer} cannot be opened: there is no {issuer}.pem.")
    return Issuers(signers, current)


def _files(folder: Path, issuers: Sequence[str]) -> Iterator[tuple[str, int, str, Path]]:
    """The certificates of these issuers there, of each the oldest first."""
    found = [(match, file) for file in folder.glob("*.pem") if (match := NAME.fullmatch(file.stem)) and match[1] in issuers]
    yield from sorted((match[1], int(match[2] or 1), file.stem, file) for match, file in found)


def _certificate(folder: Path, name: str, file: Path) -> tuple[x509.Certificate, str]:
    """An issuer's certificate, and all that lies in its file."""
    try:
        chain = x509.load_pem_x509_certificates(file.read_bytes())
        certificate = chain[0]
        roots = x509.load_pem_x509_certificates((folder / "root.pem").read_bytes())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except UNREADABLE as error:
        raise IssuerUnusable(f"The issuer {name} cannot be opened: {type(error).__name__}.") from None
    if not any(_issued_by(certificate, root) for root in roots):
        raise IssuerUnusable(f"The issuer {name} cannot be opened: no root there issued its certificate.")
    if not constraints.ca:
        raise IssuerUnusable(f"The certificate of {name} is not that of an issuer.")
    return certificate, "".join(each.public_bytes(Encoding.PEM).decode() for each in chain)


def _issued_by(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
