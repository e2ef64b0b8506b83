"""Projects, memberships and the people who can be members."""

from alembic import op

revision = "projects_0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE projects (
    project_id uuid PRIMARY KEY,
    name text NOT NULL CHECK (length(name) BETWEEN 2 AND 24),
    name_key text NOT NULL UNIQUE CHECK (name_key = lower(name)),
    description text NOT NULL,
    purpose text NOT NULL,
    state text NOT NULL CHECK (state IN ('active', 'archived', 'closing', 'deleted')),
    version bigint NOT NULL CHECK (version > 0),
    created_at timestamptz NOT NULL
);
CREATE TABLE memberships (
    project_id uuid NOT NULL REFERENCES projects,
    user_id uuid NOT NULL,
    username text NOT NULL,
    role text CHECK (role IN ('data_owner', 'data_scientist')),
    purpose text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    version bigint NOT NULL CHECK (version > 0),
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX memberships_of_a_person ON memberships (user_id, project_id) WHERE role IS NOT NULL;
CREATE INDEX memberships_that_end ON memberships (ends_at) WHERE role IS NOT NULL AND ends_at IS NOT NULL;
CREATE TABLE people (
    user_id uuid PRIMARY KEY,
    username text NOT NULL UNIQUE,
    status text NOT NULL
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
