"""``python -m services.ca.ceremony NAME``: make an issuer's key in the PKCS#11 token, and print the request that the root is to sign.

NAME is the issuer's (``people``, ``workloads``), with a number from its second key on (``people-2``). The token is named as for the service,
by ``HORTUS_PKCS11_MODULE``, ``HORTUS_PKCS11_TOKEN``, ``HORTUS_PKCS11_PIN_FILE`` and ``HORTUS_PKCS11_KEY_PREFIX``. A key that is there already is kept.
"""

import sys

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from services.ca.models import Issuer
from services.ca.settings import KeySettings
from services.ca.signer import IssuerUnusable, SignerAway, opening
from services.ca.signer.token import Token


def main() -> int:
    """Make the key, print the request."""
    match sys.argv[1:]:
        case [name] if (found := opening.NAME.fullmatch(name)) and found[1] in tuple(Issuer):
            pass
        case _:
            print("usage: python -m services.ca.ceremony people|workloads[-NUMBER]", file=sys.stderr)
            return 2
    try:
        keys = opening.keys(KeySettings())
        if not isinstance(keys, Token):
            print("HORTUS_PKCS11_MODULE names no module; without a token the set-up makes the keys itself.", file=sys.stderr)
            return 2
        issuer, _, number = name.partition("-")
        common_name = " ".join(filter(None, ("Hortus", issuer, number)))
        subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Hortus"), x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(keys.made(name), hashes.SHA256())
    except (SignerAway, IssuerUnusable) as error:
        print(error, file=sys.stderr)
        return 1
    print(request.public_bytes(Encoding.PEM).decode(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
