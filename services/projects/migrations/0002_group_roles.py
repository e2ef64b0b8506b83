"""Roles of groups in projects, and the groups that people are in."""

from alembic import op

revision = "projects_0002"
down_revision = "projects_0001"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE people ADD COLUMN groups text[] NOT NULL DEFAULT '{}';
CREATE INDEX people_by_group ON people USING gin (groups);
ALTER TABLE memberships ADD COLUMN by_group text;
ALTER TABLE memberships ADD CHECK (by_group IS NULL OR role IS NOT NULL);
CREATE TABLE group_roles (
    group_role_id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    group_name text NOT NULL CHECK (group_name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    role text NOT NULL CHECK (role IN ('data_owner', 'data_scientist')),
    purpose text NOT NULL,
    ends_at timestamptz,
    created_at timestamptz NOT NULL,
    UNIQUE (project_id, group_name)
);
CREATE INDEX group_roles_by_group ON group_roles (group_name);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
