"""How often an account had stopped being active."""

from alembic import op

revision = "jobs_0005"
down_revision = "jobs_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE people ADD COLUMN stops integer NOT NULL DEFAULT 0")
