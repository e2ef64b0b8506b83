"""How often an account had been deactivated."""

from alembic import op

revision = "projects_0007"
down_revision = "projects_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE people ADD COLUMN departures integer NOT NULL DEFAULT 0")
