"""What waits to be said and what was answered is stored as it is: it is gone before compressing would pay."""

from alembic import op

revision = "chassis_0005"
down_revision = "chassis_0004"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE outbox SET (toast_tuple_target = 8160);
ALTER TABLE idempotency SET (toast_tuple_target = 8160)
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        op.execute(statement)
