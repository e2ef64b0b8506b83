"""Each certificate knows when the membership behind it ends, so that one index says what is due and one look what still counts."""

from alembic import op

revision = "ca_0006"
down_revision = "ca_0005"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE certificates ADD COLUMN right_ends_at timestamptz;
UPDATE certificates c SET right_ends_at = m.ends_at FROM members m WHERE m.project_id = c.project_id AND m.user_id = c.user_id AND c.state = 'live';
CREATE INDEX certificates_due ON certificates (least(not_after, right_ends_at)) WHERE state = 'live';
DROP INDEX certificates_live
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        op.execute(statement)
