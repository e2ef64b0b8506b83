"""Jobs by the time at which they were submitted: those of a moment ago are looked at again."""

from alembic import op

revision = "jobs_0004"
down_revision = "jobs_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX jobs_by_time ON jobs (submitted_at)")
