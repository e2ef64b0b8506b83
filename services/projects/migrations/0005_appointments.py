"""Data Owners whom an administrator appointed, kept and reviewed like a break-glass."""

from alembic import op

revision = "projects_0005"
down_revision = "projects_0004"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE break_glass ADD COLUMN appointed_id uuid CHECK (appointed_id <> user_id);
ALTER TABLE break_glass ADD COLUMN appointed text;
ALTER TABLE break_glass ADD CHECK (reviewer_id <> appointed_id);
ALTER TABLE break_glass DROP CONSTRAINT break_glass_check;
ALTER TABLE break_glass ADD CONSTRAINT break_glass_lasts CHECK (appointed_id IS NOT NULL OR ends_at > opened_at);
CREATE INDEX break_glass_of_a_person ON break_glass (user_id, project_id) WHERE reviewed_at IS NULL;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
