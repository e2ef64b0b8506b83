"""When a provider last vouched for somebody, and the names of groups that were removed."""

from alembic import op

revision = "auth_0004"
down_revision = "auth_0003"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE users ADD COLUMN vouched_at timestamptz;
UPDATE users SET vouched_at = now() WHERE source = 'oidc';
CREATE TABLE removed_groups (
    name text PRIMARY KEY,
    removed_at timestamptz NOT NULL
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
