"""Which index the inbox belongs to."""

from alembic import op

revision = "search_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE TABLE filled (topic text PRIMARY KEY, index_id text NOT NULL)")
