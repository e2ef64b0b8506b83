"""Directories vouch for their people, too: from here on it counts when one last did."""

from alembic import op

revision = "auth_0005"
down_revision = "auth_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("UPDATE users SET vouched_at = now() WHERE source = 'ldap'")
