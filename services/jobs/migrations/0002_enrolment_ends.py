"""Enrolment tokens that people carry to a machine end when nobody uses them."""

from alembic import op

revision = "jobs_0002"
down_revision = "jobs_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE agents ADD COLUMN enrol_before timestamptz")
