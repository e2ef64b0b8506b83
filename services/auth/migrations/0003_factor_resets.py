"""One-time links of a reset of second factors are of a kind of their own: they count beside the first factor alone."""

from alembic import op

revision = "auth_0003"
down_revision = "auth_0002"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE links DROP CONSTRAINT links_purpose_check;
ALTER TABLE links ADD CHECK (purpose IN ('password-reset', 'factor-enrolment', 'factor-reset'));
UPDATE links SET purpose = 'factor-reset' WHERE purpose = 'factor-enrolment' AND expires_at - created_at > interval '1 hour';
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
