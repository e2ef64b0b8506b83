"""The root's work: making the authorities of a home, renewing them, and showing what there is. Nothing else opens the root's key.

``python -m compose.local pki`` shows; ``… pki renew [services|people|workloads]`` makes new intermediates, ``… pki renew-root`` a new root as well. In steps,
for a root on another machine: ``… pki request NAME`` makes a key and prints its request, ``… pki sign NAME`` there reads the request from standard input
and prints the certificate, ``… pki install NAME`` here reads that. The keys of ``people`` and ``workloads`` are made in a PKCS#11 token where
``HORTUS_PKCS11_MODULE`` names one.
"""

import getpass
import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from compose.local import authorities
from compose.local.authorities import ISSUERS, PEOPLE, ROOT, ROOT_LIFETIME, SERVICES, WORKLOADS
from compose.local.home import REPOSITORY, Home, keep
from compose.local.problems import SetupProblem
from compose.local.process import base_environment

PEM = serialization.Encoding.PEM
PASSPHRASE = "HORTUS_ROOT_PASSPHRASE"  # noqa: S105 - where it is
ROOT_KEY = "HORTUS_ROOT_KEY"
TOKEN = ("HORTUS_PKCS11_MODULE", "HORTUS_PKCS11_TOKEN", "HORTUS_PKCS11_PIN_FILE", "HORTUS_PKCS11_KEY_PREFIX", "SOFTHSM2_CONF")


class Root:
    """The newest root with its key, which is opened for one command."""

    def __init__(self, home: Home, passphrase: bytes) -> None:
        """Raises SetupProblem when the passphrase is wrong or the key is not there."""
        file = root_key_file(home)
        try:
            key = serialization.load_pem_private_key(file.read_bytes(), passphrase)
        except FileNotFoundError:
            raise SetupProblem(f"The root's key is not at {file}; bring it back, or say with {ROOT_KEY} where it is.") from None
        except (ValueError, TypeError):
            raise SetupProblem("This passphrase does not open the root's key.") from None
        self.certificate = authorities.roots(home)[0]
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self.certificate.public_key():
            raise SetupProblem(f"The key at {file} is not that of the newest root.")
        self.key = key


def root_key_file(home: Home) -> Path:
    """Where the newest root's key is; elsewhere, once somebody has taken it away. The key of the second root lies beside the first one's: ``root-2.key``."""
    newest = _key_of_root(home, len(authorities.every_root(home)))
    return newest if newest.exists() else _key_place(home)


def _key_place(home: Home) -> Path:
    return Path(os.environ.get(ROOT_KEY) or home.secrets / "pki" / "root.key")


def _key_of_root(home: Home, number: int) -> Path:
    place = _key_place(home)
    return place if number == 1 else place.with_name(f"{place.stem}-{number}{place.suffix}")


def token_settings(home: Home) -> dict[str, str]:
    """How the ca service reaches the token with its keys; nothing where they are files. The PIN lies in the secrets folder, or where the setting says."""
    found = {name: os.environ[name] for name in TOKEN if name in os.environ}
    if "HORTUS_PKCS11_MODULE" not in found:
        return {}
    return {"HORTUS_PKCS11_PIN_FILE": str(home.secrets / "pkcs11.pin"), **found}


def set_up(home: Home, passphrase: bytes) -> None:
    """Make the root and all intermediates of a home that has none."""
    for folder in (home.secrets / "pki", home.secrets / "ca"):
        folder.mkdir(exist_ok=True, mode=0o700)
        keep(folder / "passphrase", secrets.token_urlsafe(32).encode())
        for left in (*folder.glob("*.pem"), *folder.glob("*.key")):
            left.unlink()  # of a set-up that was cut off
    _make_root(home, passphrase)
    root = Root(home, passphrase)
    for name in ISSUERS:
        install(home, name, authorities.certify_request(request(home, name), name, root.certificate, root.key))


def _make_root(home: Home, passphrase: bytes) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = authorities.distinguished("Hortus root")
    certificate = authorities.certify(name, key.public_key(), name, key, ROOT_LIFETIME, ROOT)
    keep(_key_place(home), _sealed(key, passphrase))
    keep(home.secrets / "pki" / "root.pem", authorities.pem(certificate))
    keep(home.secrets / "ca" / "root.pem", authorities.pem(certificate))


def renew(home: Home, root: Root, issuers: Sequence[str] = ISSUERS) -> list[str]:
    """New keys and certificates for these issuers; their names. The ones before stay trusted until they end."""
    renewed = [authorities.next_name(home, issuer) for issuer in issuers]
    for name in renewed:
        install(home, name, authorities.certify_request(request(home, name), name, root.certificate, root.key))
    return renewed


def renew_root(home: Home, old: Root, passphrase: bytes) -> list[str]:
    """A new root, and new intermediates below it. The root before stays trusted until it ends, and certifies the new one for those who know only it.

    What is written first counts for nothing until the last file names the new root: a renewal that is cut off is begun anew with the old passphrase, or,
    when only intermediates are missing, gone on with by ``renew`` with the new one.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = old.certificate.subject
    certificate = authorities.certify(name, key.public_key(), name, key, ROOT_LIFETIME, ROOT)
    left = old.certificate.not_valid_after_utc - certificate.not_valid_before_utc
    bridge = authorities.certify(name, key.public_key(), name, old.key, left - authorities.BACKDATE, ROOT)
    before = authorities.every_root(home)
    keep(_key_of_root(home, len(before) + 1), _sealed(key, passphrase))
    keep(home.secrets / "pki" / authorities.BRIDGES, authorities.pem(bridge, *authorities.bridges(home)))
    for folder in ("ca", "pki"):
        keep(home.secrets / folder / "root.pem", authorities.pem(certificate, *before))
    return renew(home, Root(home, passphrase))


def request(home: Home, name: str) -> bytes:
    """The request for an issuer's certificate, PEM, by a key that is made for it now, or was before."""
    issuer, folder = authorities.kind_of(name), authorities.folder_of(home, authorities.kind_of(name))
    if issuer != SERVICES and token_settings(home):
        return _by_token(home, name)
    if (folder / f"{name}.pem").exists():
        raise SetupProblem(f"{name} has its certificate; ask for {authorities.next_name(home, issuer)}.")
    file = folder / f"{name}.key"
    if not file.exists():
        keep(file, _sealed(ec.generate_private_key(ec.SECP256R1()), _passphrase_of(folder)))
    key = _opened(file)
    made = x509.CertificateSigningRequestBuilder().subject_name(authorities.distinguished(authorities.title(name)))
    return made.sign(key, hashes.SHA256()).public_bytes(PEM)


def _passphrase_of(folder: Path) -> bytes:
    return (folder / "passphrase").read_bytes().strip()


def _opened(file: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(file.read_bytes(), _passphrase_of(file.parent))
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SetupProblem(f"{file} is no elliptic-curve key.")
    return key


def _by_token(home: Home, name: str) -> bytes:
    environment = base_environment(HORTUS_ISSUERS_DIR=str(authorities.folder_of(home, authorities.kind_of(name))), **token_settings(home))
    command = [sys.executable, "-m", "services.ca.ceremony", name]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        raise SetupProblem(f"The key of {name} was not made: {done.stderr.decode().strip()}")
    return done.stdout


def install(home: Home, name: str, certificate: x509.Certificate) -> None:
    """Take up an issuer's certificate: trusted first, and only then there for whoever signs with it. Raises SetupProblem.

    Behind it lie the roots as the ones before certified them, for chains: those who trust only an old root get to the new one by them.
    """
    issuer = authorities.kind_of(name)
    root = next((root for root in authorities.roots(home) if _certified(certificate, root)), None)
    if root is None:
        raise SetupProblem(f"No root of this home issued the certificate for {name}.")
    if certificate.subject != authorities.distinguished(authorities.title(name)):
        raise SetupProblem(f"The certificate is not that of {name}.")
    file = authorities.folder_of(home, issuer) / f"{name}.key"
    if file.exists() and _opened(file).public_key() != certificate.public_key():
        raise SetupProblem(f"The certificate is not that of the key of {name}.")
    authorities.write_trust(home, (issuer, certificate))
    older = authorities.every_root(home).index(root)  # so many roots came after it
    keep(authorities.folder_of(home, issuer) / f"{name}.pem", authorities.pem(certificate, *authorities.bridges(home)[older:]))


def _certified(certificate: x509.Certificate, root: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _sealed(key: ec.EllipticCurvePrivateKey, passphrase: bytes) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(passphrase))


def passphrase(question: str = "Passphrase of the root's key: ") -> bytes:
    """The root's passphrase: from the environment, or asked for where somebody sits. Raises SetupProblem."""
    given = os.environ.get(PASSPHRASE)
    if given:
        return given.encode()
    if not sys.stdin.isatty():
        raise SetupProblem(f"This needs the root's passphrase: run it in a terminal, or set {PASSPHRASE} for this one command.")
    return getpass.getpass(question).encode()


def command(home: Home, arguments: Sequence[str]) -> int:
    """What ``python -m compose.local pki`` does. Raises SetupProblem."""
    if not (home.secrets / "pki" / "complete").exists():
        raise SetupProblem("There are no authorities here yet; `make up` makes them.")
    match arguments:
        case [] | ["show"]:
            for line in listed(home):
                print(line)
        case ["renew", *issuers] if set(issuers) <= set(ISSUERS):
            _tell(renew(home, Root(home, passphrase()), issuers or ISSUERS))
        case ["renew-root"]:
            old = Root(home, passphrase())
            new = secrets.token_urlsafe(24)
            print(f"The new root's passphrase, shown this once and kept nowhere: {new}", flush=True)
            _tell([ROOT, *renew_root(home, old, new.encode())])
            print(f"The new root's key is {root_key_file(home)}.")
        case ["request", name]:
            print(request(home, name).decode(), end="")
        case ["sign", name]:
            root = Root(home, passphrase())
            print(authorities.pem(authorities.certify_request(sys.stdin.buffer.read(), name, root.certificate, root.key)).decode(), end="")
        case ["install", name]:
            install(home, name, _read(sys.stdin.buffer.read()))
            _tell([name])
        case _:
            raise SetupProblem(
                "usage: python -m compose.local pki [show | renew [ISSUER…] | renew-root | request NAME | sign NAME | install NAME]"
            )
    return 0


def _read(pem: bytes) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise SetupProblem("What came is no certificate in PEM.") from None


def _tell(renewed: Sequence[str]) -> None:
    print(f"Made: {', '.join(renewed)}. What they replace stays trusted until it ends.")
    if {PEOPLE, WORKLOADS} & {name.partition("-")[0] for name in renewed}:
        print("A running ca signs with its new keys within a minute.")
    if SERVICES in {name.partition("-")[0] for name in renewed}:
        print("Services, broker and index get certificates of the new `services` at the next `make down` and `make up`.")
    if ROOT in renewed:
        print("Give the new root.pem to those who trust the old one, before that ends.")


def listed(home: Home) -> list[str]:
    """The authorities of a home, a line each: name, end, SHA-256 of the certificate."""
    return [
        f"{each.name:<16} until {each.ends:%Y-%m-%d}{'  ends soon' if each.ends_soon else ''}  {each.fingerprint}"
        for each in authorities.shown(home)
    ]
