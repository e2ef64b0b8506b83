"""Whether somebody is an administrator, so that who is none any more opens no project."""

from alembic import op

revision = "projects_0006"
down_revision = "projects_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE people ADD COLUMN administrator boolean NOT NULL DEFAULT true")
