"""What is known of a project's lawfulness, its end date, and its deletion; a deleted project has no name."""

from alembic import op

revision = "projects_0003"
down_revision = "projects_0002"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE projects ADD COLUMN legal_basis text NOT NULL DEFAULT '';
ALTER TABLE projects ADD COLUMN ethics_approval_id text NOT NULL DEFAULT '';
ALTER TABLE projects ADD COLUMN ends_at timestamptz;
CREATE INDEX projects_that_end ON projects (ends_at) WHERE state = 'active' AND ends_at IS NOT NULL;
ALTER TABLE projects DROP CONSTRAINT projects_state_check;
ALTER TABLE projects ADD CHECK (state IN ('active', 'archived', 'closing', 'purging', 'deleted'));
ALTER TABLE projects ALTER COLUMN name_key DROP NOT NULL;
ALTER TABLE projects DROP CONSTRAINT projects_name_check;
ALTER TABLE projects ADD CONSTRAINT projects_name_check CHECK (CASE state WHEN 'deleted' THEN name = '' ELSE length(name) BETWEEN 2 AND 24 END);
ALTER TABLE projects ADD CHECK ((state = 'deleted') = (name_key IS NULL));
CREATE TABLE deletions (
    project_id uuid PRIMARY KEY REFERENCES projects,
    asked_by uuid NOT NULL,
    asked_at timestamptz NOT NULL,
    owners uuid[] NOT NULL,
    purging_at timestamptz,
    erased_at timestamptz,
    document text,
    sha256 text,
    CHECK ((erased_at IS NULL) = (document IS NULL) AND (document IS NULL) = (sha256 IS NULL))
);
CREATE TABLE deletion_parts (
    project_id uuid NOT NULL REFERENCES deletions,
    service text NOT NULL,
    closed_at timestamptz NOT NULL,
    purged_at timestamptz,
    removed jsonb NOT NULL,
    kept jsonb NOT NULL,
    PRIMARY KEY (project_id, service)
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
