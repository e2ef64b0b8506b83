"""An erasure in the outbox has no payload."""

from alembic import op

revision = "chassis_0002"
down_revision = "chassis_0001"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE outbox ALTER COLUMN payload DROP NOT NULL;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
