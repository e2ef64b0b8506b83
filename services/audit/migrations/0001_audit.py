"""The ledger."""

from alembic import op

revision = "audit_0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE sources (
    source text PRIMARY KEY,
    seen_at timestamptz NOT NULL
);
CREATE TABLE records (
    source text NOT NULL,
    number bigint NOT NULL CHECK (number > 0),
    at timestamptz NOT NULL,
    actor text NOT NULL,
    username text,
    action text NOT NULL,
    outcome text NOT NULL,
    project_id uuid,
    canonical bytea NOT NULL,
    leaf bytea NOT NULL CHECK (leaf = sha256('\\x00'::bytea || canonical)),
    kafka_offset bigint NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (source, number)
);
CREATE INDEX records_by_time ON records (at, source, number);
CREATE INDEX records_of_project ON records (project_id, at, source, number) WHERE project_id IS NOT NULL;
CREATE INDEX records_of_actor ON records (actor, at, source, number);
CREATE INDEX records_of_username ON records (username, at, source, number) WHERE username IS NOT NULL;
CREATE TABLE links (
    source text NOT NULL,
    number bigint NOT NULL,
    chain bytea NOT NULL CHECK (length(chain) = 32),
    PRIMARY KEY (source, number),
    FOREIGN KEY (source, number) REFERENCES records
);
CREATE TABLE gaps (
    source text NOT NULL,
    first bigint NOT NULL,
    last bigint NOT NULL CHECK (last >= first),
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (source, first)
);
CREATE TABLE anomalies (
    topic text NOT NULL,
    kafka_offset bigint NOT NULL,
    leaf bytea NOT NULL,
    kind text NOT NULL,
    source text NOT NULL,
    number bigint,
    value bytea NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (topic, kafka_offset, leaf)
);
CREATE TABLE unreadable (
    topic text NOT NULL,
    kafka_offset bigint NOT NULL,
    leaf bytea NOT NULL,
    kafka_partition integer NOT NULL,
    key bytea,
    value bytea NOT NULL,
    reason text NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (topic, kafka_offset, leaf)
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
