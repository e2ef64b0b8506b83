"""Accounts, invitations, credentials, sessions, signing keys and failed attempts."""

from alembic import op

revision = "auth_0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE users (
    user_id uuid PRIMARY KEY,
    username text NOT NULL UNIQUE CHECK (username ~ '^[a-z0-9]{8}$'),
    email text NOT NULL UNIQUE,
    status text NOT NULL CHECK (status IN ('invited', 'active', 'blocked', 'deactivated')),
    cluster_roles text[] NOT NULL CHECK (cluster_roles <@ ARRAY['administrator', 'auditor']),
    version bigint NOT NULL CHECK (version > 0),
    created_at timestamptz NOT NULL,
    confirmed_at timestamptz,
    CHECK (status <> 'active' OR confirmed_at IS NOT NULL)
);
CREATE TABLE invitations (
    user_id uuid PRIMARY KEY REFERENCES users,
    token_hash bytea NOT NULL UNIQUE,
    expires_at timestamptz NOT NULL,
    first boolean NOT NULL,
    password_hash text,
    totp_sealed bytea
);
CREATE UNIQUE INDEX one_first_invitation ON invitations (first) WHERE first;
CREATE TABLE credentials (
    user_id uuid PRIMARY KEY REFERENCES users,
    password_hash text NOT NULL,
    totp_sealed bytea NOT NULL,
    last_step bigint NOT NULL
);
CREATE TABLE sessions (
    session_id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    version bigint NOT NULL CHECK (version > 0)
);
CREATE INDEX open_sessions ON sessions (user_id, session_id) WHERE ended_at IS NULL;
CREATE TABLE signing_keys (
    key_id text PRIMARY KEY,
    sealed bytea NOT NULL,
    jwk jsonb NOT NULL,
    live boolean NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    created_at timestamptz NOT NULL
);
CREATE TABLE attempts (
    name bytea PRIMARY KEY,
    failures integer NOT NULL CHECK (failures >= 0),
    next_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL
);
CREATE INDEX attempts_by_age ON attempts (seen_at);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
