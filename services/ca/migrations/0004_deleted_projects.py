"""Of a deleted project the chains of its certificates go, which hold its name; serial numbers stay as long as a list needs them."""

from alembic import op

revision = "ca_0004"
down_revision = "ca_0003"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE certificates DROP CONSTRAINT certificates_check1;
ALTER TABLE certificates ADD CONSTRAINT certificates_chain CHECK (CASE state WHEN 'intended' THEN chain = '' WHEN 'live' THEN chain <> '' ELSE true END);
CREATE INDEX certificates_of_deleted_projects ON certificates (not_after) WHERE state = 'revoked' AND chain = '';
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
