"""Projects that are being or were deleted, and aggregates to erase from their topics later."""

from alembic import op

revision = "chassis_0004"
down_revision = "chassis_0003"
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE deleted_projects (
    project_id uuid PRIMARY KEY,
    step text NOT NULL CHECK (step IN ('closed', 'purging', 'purged')),
    project_version bigint NOT NULL,
    removed jsonb NOT NULL DEFAULT '{}',
    closed_at timestamptz NOT NULL
);
CREATE INDEX deleted_projects_to_purge ON deleted_projects (project_id) WHERE step = 'purging';
CREATE TABLE later_erasures (
    topic text NOT NULL,
    key text NOT NULL,
    version bigint NOT NULL,
    due timestamptz NOT NULL,
    PRIMARY KEY (topic, key)
);
CREATE INDEX later_erasures_due ON later_erasures (due);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
