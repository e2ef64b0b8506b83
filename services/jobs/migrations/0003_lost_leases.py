"""How many leases in a row a run lost before it had got anywhere."""

from alembic import op

revision = "jobs_0003"
down_revision = "jobs_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE runs ADD COLUMN lost integer NOT NULL DEFAULT 0 CHECK (lost >= 0)")
