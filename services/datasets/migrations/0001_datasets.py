"""Datasets, their keys, origins, files, shares and staged outputs, and projections of projects, people, members, runs."""

from alembic import op

revision = "datasets_0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE datasets (
    dataset_id uuid PRIMARY KEY,
    project_id uuid NOT NULL,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    name_key text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('files')),
    description text NOT NULL CHECK (length(description) <= 2000),
    files integer NOT NULL CHECK (files >= 0),
    size bigint NOT NULL CHECK (size >= 0),
    origins uuid[] NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    created_at timestamptz NOT NULL,
    UNIQUE (project_id, name_key)
);
CREATE TABLE dataset_keys (
    dataset_id uuid PRIMARY KEY,
    wrapped bytea NOT NULL
);
CREATE TABLE origins (
    dataset_id uuid PRIMARY KEY,
    project_id uuid NOT NULL
);
CREATE TABLE files (
    file_id uuid PRIMARY KEY,
    dataset_id uuid NOT NULL REFERENCES datasets,
    path text COLLATE "C" NOT NULL CHECK (octet_length(path) BETWEEN 1 AND 1024),
    number integer NOT NULL CHECK (number > 0),
    current boolean NOT NULL,
    size bigint NOT NULL CHECK (size >= 0),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    key bytea NOT NULL,
    blob text,
    content bytea,
    origins uuid[] NOT NULL CHECK (cardinality(origins) > 0),
    created_at timestamptz NOT NULL,
    UNIQUE (dataset_id, path, number),
    CHECK ((blob IS NULL) <> (content IS NULL))
);
CREATE UNIQUE INDEX files_current ON files (dataset_id, path) WHERE current;
CREATE UNIQUE INDEX files_blob ON files (blob) WHERE blob IS NOT NULL;
CREATE TABLE staged (
    file_id uuid PRIMARY KEY,
    run_id uuid NOT NULL,
    fencing_token bigint NOT NULL,
    path text COLLATE "C" NOT NULL CHECK (octet_length(path) BETWEEN 1 AND 1024),
    size bigint NOT NULL CHECK (size >= 0),
    sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
    key bytea NOT NULL,
    blob text,
    content bytea,
    created_at timestamptz NOT NULL,
    UNIQUE (run_id, fencing_token, path),
    CHECK ((blob IS NULL) <> (content IS NULL))
);
CREATE UNIQUE INDEX staged_blob ON staged (blob) WHERE blob IS NOT NULL;
CREATE TABLE shares (
    share_id uuid PRIMARY KEY,
    dataset_id uuid NOT NULL REFERENCES datasets,
    project_id uuid NOT NULL,
    target_project_id uuid NOT NULL CHECK (target_project_id <> project_id),
    state text NOT NULL CHECK (state IN ('offered', 'accepted', 'withdrawn')),
    version bigint NOT NULL CHECK (version > 0)
);
CREATE UNIQUE INDEX shares_open ON shares (dataset_id, target_project_id) WHERE state <> 'withdrawn';
CREATE INDEX shares_target ON shares (target_project_id, share_id);
CREATE TABLE projects (
    project_id uuid PRIMARY KEY,
    state text NOT NULL
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
CREATE TABLE runs (
    run_id uuid PRIMARY KEY,
    project_id uuid NOT NULL,
    user_id uuid NOT NULL,
    state text NOT NULL,
    fencing_token bigint NOT NULL,
    inputs uuid[] NOT NULL,
    output_dataset_id uuid NOT NULL,
    output_name text NOT NULL
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
