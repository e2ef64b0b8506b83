"""Certificates, and what ca has to know of people, projects, memberships and runs."""

from alembic import op

revision = "ca_0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE certificates (
    certificate_id text PRIMARY KEY CHECK (certificate_id ~ '^[0-9a-f]{32}$'),
    kind text NOT NULL CHECK (kind IN ('project', 'agent', 'job')),
    state text NOT NULL CHECK (state IN ('intended', 'live', 'revoked')),
    project_id uuid,
    user_id uuid,
    agent_id uuid,
    run_id uuid,
    fencing_token bigint,
    csr_sha256 text NOT NULL,
    not_before timestamptz NOT NULL,
    not_after timestamptz NOT NULL,
    fingerprint text NOT NULL,
    chain text NOT NULL,
    created_at timestamptz NOT NULL,
    ended_at timestamptz,
    ending text,
    version bigint NOT NULL,
    CHECK ((state = 'intended') = (version = 0)),
    CHECK ((state = 'intended') = (chain = '')),
    CHECK ((state = 'revoked') = (ended_at IS NOT NULL AND ending IS NOT NULL))
);
CREATE UNIQUE INDEX certificates_one_a_lease ON certificates (run_id, fencing_token) WHERE kind = 'job' AND state <> 'intended';
CREATE UNIQUE INDEX certificates_one_a_request ON certificates (agent_id, csr_sha256) WHERE kind = 'agent' AND state <> 'intended';
CREATE INDEX certificates_live ON certificates (not_after) WHERE state = 'live';
CREATE INDEX certificates_of_person ON certificates (user_id, project_id, created_at, certificate_id) WHERE state <> 'intended';
CREATE INDEX certificates_of_project ON certificates (project_id, created_at, certificate_id) WHERE state <> 'intended';
CREATE TABLE people (
    user_id uuid PRIMARY KEY,
    username text NOT NULL,
    active boolean NOT NULL,
    version bigint NOT NULL
);
CREATE TABLE projects (
    project_id uuid PRIMARY KEY,
    name text NOT NULL,
    open boolean NOT NULL,
    version bigint NOT NULL
);
CREATE TABLE members (
    project_id uuid NOT NULL,
    user_id uuid NOT NULL,
    username text NOT NULL,
    role text,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    version bigint NOT NULL,
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX members_of_person ON members (user_id);
CREATE TABLE runs (
    run_id uuid PRIMARY KEY,
    project_id uuid NOT NULL,
    user_id uuid NOT NULL,
    active boolean NOT NULL,
    fencing_token bigint NOT NULL,
    csr text,
    version bigint NOT NULL
);
CREATE INDEX runs_active ON runs (project_id, user_id) WHERE active;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
