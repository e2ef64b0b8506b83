"""When somebody last signed in is known for longer than their sessions are kept."""

from alembic import op

revision = "auth_0006"
down_revision = "auth_0005"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE users ADD COLUMN last_sign_in_at timestamptz;
UPDATE users SET last_sign_in_at = last.at
    FROM (SELECT user_id, max(created_at) AS at FROM sessions GROUP BY user_id) AS last WHERE last.user_id = users.user_id;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
