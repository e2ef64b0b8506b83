"""How often an account stopped being active, and was deactivated: who hears of it late ends what they missed."""

from alembic import op

revision = "auth_0007"
down_revision = "auth_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE users ADD COLUMN stops integer NOT NULL DEFAULT 0")
    op.execute("ALTER TABLE users ADD COLUMN departures integer NOT NULL DEFAULT 0")
