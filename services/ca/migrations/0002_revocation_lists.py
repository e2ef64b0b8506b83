"""The newest list of revoked certificates of each issuer."""

from alembic import op

revision = "ca_0002"
down_revision = "ca_0001"
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE revocation_lists (
    issuer text PRIMARY KEY CHECK (issuer IN ('people', 'workloads')),
    number bigint NOT NULL,
    this_update timestamptz NOT NULL,
    next_update timestamptz NOT NULL,
    since timestamptz NOT NULL,
    entries integer NOT NULL,
    der bytea NOT NULL,
    CHECK ((number = 0) = (der = ''))
);
INSERT INTO revocation_lists SELECT name, 0, now(), now(), now(), 0, '' FROM unnest(ARRAY['people', 'workloads']) AS issuer (name);
CREATE INDEX certificates_revoked ON certificates (kind, not_after) WHERE state = 'revoked' AND ending <> 'expired';
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
