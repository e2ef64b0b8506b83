"""Which key of its issuer signed a certificate, and a list of revoked ones for each key.

What was signed before says it itself: a certificate's chain ends with the issuer's, a list names the key that signed it.
"""

import hashlib

import sqlalchemy as sa
from alembic import op
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

revision = "ca_0003"
down_revision = "ca_0002"
branch_labels = None
depends_on = None

END = "-----END CERTIFICATE-----"
ISSUERS = sa.text("SELECT DISTINCT split_part(chain, :end, 2) FROM certificates WHERE chain <> ''")
SIGNED_BY = sa.text("UPDATE certificates SET issuer_key = :key WHERE split_part(chain, :end, 2) = :pem")
LISTS = sa.text("SELECT issuer, der FROM revocation_lists WHERE number > 0")
LIST_BY = sa.text("UPDATE revocation_lists SET issuer_key = :key WHERE issuer = :issuer")
STATEMENTS = """
ALTER TABLE certificates ADD COLUMN issuer_key text NOT NULL DEFAULT '' CHECK (issuer_key ~ '^([0-9a-f]{40})?$');
ALTER TABLE certificates ALTER COLUMN issuer_key DROP DEFAULT;
ALTER TABLE revocation_lists ADD COLUMN issuer_key text CHECK (issuer_key ~ '^[0-9a-f]{40}$')
"""
AFTERWARDS = """
DELETE FROM revocation_lists WHERE issuer_key IS NULL;
ALTER TABLE revocation_lists DROP CONSTRAINT revocation_lists_pkey;
ALTER TABLE revocation_lists ADD PRIMARY KEY (issuer_key);
ALTER TABLE revocation_lists DROP COLUMN issuer;
DROP INDEX certificates_revoked;
CREATE INDEX certificates_revoked ON certificates (issuer_key, not_after) WHERE state = 'revoked' AND ending <> 'expired'
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        op.execute(statement)
    connection = op.get_bind()
    for (pem,) in connection.execute(ISSUERS, {"end": END}).all():
        connection.execute(SIGNED_BY, {"key": _key_id(pem + END), "pem": pem, "end": END})
    for issuer, der in connection.execute(LISTS).all():
        signed_by = x509.load_der_x509_crl(bytes(der)).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        connection.execute(LIST_BY, {"key": (signed_by.key_identifier or b"").hex(), "issuer": issuer})
    for statement in AFTERWARDS.split(";\n"):
        op.execute(statement)


def _key_id(pem: str) -> str:
    public = x509.load_pem_x509_certificate(pem.encode()).public_key()
    return hashlib.sha1(public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)).hexdigest()  # noqa: S324 - a name
