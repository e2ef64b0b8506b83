"""How often an account had stopped being active."""

from alembic import op

revision = "ca_0010"
down_revision = "ca_0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE people ADD COLUMN stops integer NOT NULL DEFAULT 0")
