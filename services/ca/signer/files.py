"""Keys of issuers in encrypted PKCS#8 files."""

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from services.ca.signer import IssuerUnusable


class KeyFiles:
    """A folder with ``<name>.key`` for each key and the ``passphrase`` of all."""

    slow = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def key(self, name: str, certificate: x509.Certificate) -> ec.EllipticCurvePrivateKey:
        """The key in ``<name>.key``. Raises IssuerUnusable when it cannot be opened, is of another kind or of another certificate."""
        try:
            passphrase = (self.folder / "passphrase").read_bytes().strip()
            key = load_pem_private_key((self.folder / f"{name}.key").read_bytes(), passphrase)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise IssuerUnusable(f"The issuer {name} cannot be opened: {type(error).__name__}.") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise IssuerUnusable(f"The key of the issuer {name} is not on P-256.")
        if key.public_key() != certificate.public_key():
            raise IssuerUnusable(f"The key of the issuer {name} is not the one in its certificate.")
        return key
