"""Until when all was heard of a partition of an authority topic, for services that answer by it without the gateway."""

from alembic import op

revision = "chassis_0003"
down_revision = "chassis_0002"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE partitions_heard ADD COLUMN position_at timestamptz;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
