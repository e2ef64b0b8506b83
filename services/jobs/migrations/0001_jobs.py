"""Jobs, runs, what was read of them, agents, and what jobs knows of people, projects, datasets and shares."""

from alembic import op

revision = "jobs_0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE jobs (
    job_id uuid PRIMARY KEY,
    project_id uuid NOT NULL,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    submitted_by uuid NOT NULL,
    program text NOT NULL CHECK (octet_length(program) BETWEEN 1 AND 65536),
    environment text NOT NULL,
    arguments jsonb NOT NULL,
    inputs uuid[] NOT NULL,
    wall_seconds integer NOT NULL CHECK (wall_seconds > 0),
    memory_mib integer NOT NULL CHECK (memory_mib > 0),
    cores integer NOT NULL CHECK (cores > 0),
    output_dataset_id uuid NOT NULL UNIQUE,
    submitted_at timestamptz NOT NULL,
    version bigint NOT NULL CHECK (version > 0)
);
CREATE INDEX jobs_of_a_project ON jobs (project_id, job_id);
CREATE TABLE runs (
    run_id uuid PRIMARY KEY,
    job_id uuid NOT NULL UNIQUE REFERENCES jobs,
    project_id uuid NOT NULL,
    user_id uuid NOT NULL,
    state text NOT NULL CHECK (state IN ('queued', 'leased', 'running', 'succeeded', 'failed', 'cancelled')),
    agent_id uuid,
    fencing_token bigint NOT NULL CHECK (fencing_token >= 0),
    csr text,
    certificate text,
    certificate_id text,
    lease_until timestamptz,
    announced_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    exit_code integer,
    reason text,
    metrics jsonb NOT NULL,
    news bigint NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    CHECK ((state IN ('leased', 'running')) = (lease_until IS NOT NULL)),
    CHECK (state NOT IN ('leased', 'running') OR (agent_id IS NOT NULL AND csr IS NOT NULL AND fencing_token > 0))
);
CREATE INDEX runs_queued ON runs (run_id) WHERE state = 'queued';
CREATE INDEX runs_leased ON runs (lease_until) WHERE lease_until IS NOT NULL;
CREATE INDEX runs_live ON runs (project_id, user_id) WHERE state IN ('queued', 'leased', 'running');
CREATE TABLE logs (
    run_id uuid PRIMARY KEY REFERENCES runs,
    base bigint NOT NULL,
    until bigint NOT NULL CHECK (until >= base),
    kept bytea NOT NULL CHECK (octet_length(kept) <= 65536)
);
CREATE TABLE shown (
    run_id uuid NOT NULL REFERENCES runs,
    user_id uuid NOT NULL,
    log_from bigint NOT NULL,
    log_until bigint NOT NULL CHECK (log_until >= log_from),
    details bytea,
    PRIMARY KEY (run_id, user_id)
);
CREATE TABLE budgets (
    project_id uuid NOT NULL,
    user_id uuid NOT NULL,
    day text NOT NULL,
    used bigint NOT NULL CHECK (used >= 0),
    PRIMARY KEY (project_id, user_id, day)
);
CREATE TABLE agents (
    agent_id uuid PRIMARY KEY,
    name text NOT NULL,
    token_sha256 bytea NOT NULL UNIQUE CHECK (octet_length(token_sha256) = 32),
    key_sha256 bytea CHECK (octet_length(key_sha256) = 32),
    csr text,
    chain text,
    certificate_id text,
    live boolean NOT NULL,
    created_at timestamptz NOT NULL,
    version bigint NOT NULL CHECK (version > 0)
);
CREATE TABLE people (
    user_id uuid PRIMARY KEY,
    status text NOT NULL
);
CREATE TABLE members (
    project_id uuid NOT NULL,
    user_id uuid NOT NULL,
    role text,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz,
    PRIMARY KEY (project_id, user_id)
);
CREATE TABLE projects (
    project_id uuid PRIMARY KEY,
    state text NOT NULL
);
CREATE TABLE datasets (
    dataset_id uuid PRIMARY KEY,
    project_id uuid NOT NULL,
    name text NOT NULL,
    origins uuid[] NOT NULL,
    deleted boolean NOT NULL
);
CREATE TABLE shares (
    share_id uuid PRIMARY KEY,
    dataset_id uuid NOT NULL,
    target_project_id uuid NOT NULL,
    state text NOT NULL
);
CREATE INDEX shares_of_a_dataset ON shares (dataset_id, target_project_id);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
