"""The chassis' tables: what is to be said, what was heard, who leads, and answers to repeat."""

from alembic import op

revision = "chassis_0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,
    key text NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    type text NOT NULL,
    event_id uuid NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    traceparent text NOT NULL,
    payload text NOT NULL,
    UNIQUE (topic, key, version)
);
CREATE TABLE heads (
    topic text NOT NULL,
    key text NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (topic, key)
);
CREATE TABLE audit_outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    record jsonb NOT NULL,
    number bigint UNIQUE
);
CREATE TABLE audit_counter (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    last bigint NOT NULL
);
INSERT INTO audit_counter (last) VALUES (0);
CREATE TABLE inbox (
    topic text NOT NULL,
    key text NOT NULL,
    version bigint NOT NULL,
    partition integer NOT NULL,
    pass bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, key)
);
CREATE TABLE partitions_heard (
    topic text NOT NULL,
    partition integer NOT NULL,
    awake_at timestamptz NOT NULL,
    pass bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (topic, partition)
);
CREATE TABLE relay_lease (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    holder text NOT NULL,
    until timestamptz NOT NULL
);
INSERT INTO relay_lease (holder, until) VALUES ('', '-infinity');
CREATE TABLE idempotency (
    owner text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    status integer,
    body bytea,
    headers jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner, key)
);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
