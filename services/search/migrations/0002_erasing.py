"""Which documents of deleted projects are about to be erased, so that each is counted although a process dies in between."""

from alembic import op

revision = "search_0002"
down_revision = "search_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE TABLE erasing (kind text, id text, project_id uuid NOT NULL, PRIMARY KEY (kind, id))")
