"""What agents ask for while an issuer's key is away."""

from alembic import op

revision = "ca_0009"
down_revision = "ca_0008"
branch_labels = None
depends_on = None

TABLE = """
CREATE TABLE agent_requests (
    agent_id uuid PRIMARY KEY,
    csr text NOT NULL
)
"""


def upgrade() -> None:
    op.execute(TABLE)
