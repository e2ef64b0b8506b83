"""The certificates that running services had renewed."""

from alembic import op

revision = "ca_0005"
down_revision = "ca_0004"
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE service_certificates (
    certificate_id text PRIMARY KEY CHECK (certificate_id ~ '^[0-9a-f]{32}$'),
    service text NOT NULL,
    follows text NOT NULL,
    state text NOT NULL CHECK (state IN ('intended', 'live')),
    csr_sha256 text NOT NULL,
    not_before timestamptz NOT NULL,
    not_after timestamptz NOT NULL,
    fingerprint text NOT NULL,
    chain text NOT NULL,
    created_at timestamptz NOT NULL,
    CHECK ((state = 'intended') = (chain = '' AND fingerprint = ''))
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
