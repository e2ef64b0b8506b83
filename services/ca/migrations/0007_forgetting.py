"""Certificates are forgotten a day after their end, once no list needs them."""

from alembic import op

revision = "ca_0007"
down_revision = "ca_0006"
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE INDEX certificates_over ON certificates (not_after) WHERE state = 'revoked';
DROP INDEX certificates_of_deleted_projects
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        op.execute(statement)
