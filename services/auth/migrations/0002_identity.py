"""Identity: groups, second factors, refresh tokens, API keys, one-time links, registrations, letters."""

from alembic import op

revision = "auth_0002"
down_revision = "auth_0001"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE users ADD COLUMN source text NOT NULL DEFAULT 'local' CHECK (source IN ('local', 'ldap', 'oidc'));
ALTER TABLE users ADD COLUMN provider text;
ALTER TABLE users ADD COLUMN external_id text;
ALTER TABLE users ADD COLUMN gone_at timestamptz;
ALTER TABLE users ADD COLUMN own_roles text[] NOT NULL DEFAULT '{}' CHECK (own_roles <@ ARRAY['administrator', 'auditor']);
ALTER TABLE users ADD COLUMN groups text[] NOT NULL DEFAULT '{}';
ALTER TABLE users ADD COLUMN directory_groups text[] NOT NULL DEFAULT '{}' CHECK (directory_groups <@ groups);
ALTER TABLE users ADD COLUMN factor_enrolled_at timestamptz;
ALTER TABLE users ADD CHECK ((source = 'local') = (external_id IS NULL) AND (external_id IS NULL) = (provider IS NULL));
CREATE UNIQUE INDEX users_by_external_id ON users (provider, external_id) WHERE external_id IS NOT NULL;
UPDATE users SET own_roles = cluster_roles, factor_enrolled_at = confirmed_at;
CREATE INDEX users_by_username_prefix ON users (username text_pattern_ops);
CREATE INDEX users_by_email_prefix ON users (email text_pattern_ops);
CREATE INDEX users_by_status ON users (status, user_id);
CREATE TABLE groups (
    group_id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    factor_policy text CHECK (factor_policy IN ('optional', 'required', 'passkey')),
    cluster_roles text[] NOT NULL CHECK (cluster_roles <@ ARRAY['administrator', 'auditor']),
    external text[] NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    created_at timestamptz NOT NULL
);
CREATE TABLE group_members (
    group_id uuid NOT NULL REFERENCES groups ON DELETE CASCADE,
    user_id uuid NOT NULL REFERENCES users,
    by_directory boolean NOT NULL,
    PRIMARY KEY (group_id, user_id, by_directory)
);
CREATE INDEX groups_of_person ON group_members (user_id);
ALTER TABLE credentials ALTER COLUMN password_hash DROP NOT NULL;
ALTER TABLE credentials ALTER COLUMN totp_sealed DROP NOT NULL;
ALTER TABLE credentials ADD COLUMN pending_totp_sealed bytea;
ALTER TABLE credentials ADD COLUMN totp_at timestamptz;
ALTER TABLE credentials ADD COLUMN password_at timestamptz;
CREATE TABLE passkeys (
    passkey_id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    credential_id bytea NOT NULL UNIQUE,
    public_key bytea NOT NULL,
    sign_count bigint NOT NULL,
    name text NOT NULL,
    backed_up boolean NOT NULL,
    created_at timestamptz NOT NULL,
    last_used_at timestamptz
);
CREATE INDEX passkeys_of_person ON passkeys (user_id, passkey_id);
CREATE TABLE recovery_codes (
    user_id uuid NOT NULL REFERENCES users,
    code_hash bytea NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (user_id, code_hash)
);
CREATE TABLE spent (
    token_hash bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX spent_by_age ON spent (expires_at);
CREATE TABLE links (
    token_hash bytea PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    purpose text NOT NULL CHECK (purpose IN ('password-reset', 'factor-enrolment')),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (user_id, purpose)
);
CREATE TABLE reset_asks (
    ask_id uuid PRIMARY KEY,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TABLE registrations (
    registration_id uuid PRIMARY KEY,
    email text NOT NULL,
    note text NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'approved', 'declined')),
    created_at timestamptz NOT NULL,
    decided_at timestamptz,
    decided_by uuid,
    version bigint NOT NULL CHECK (version > 0)
);
CREATE INDEX registrations_open ON registrations (registration_id) WHERE state = 'open';
CREATE UNIQUE INDEX one_open_registration ON registrations (email) WHERE state = 'open';
CREATE TABLE letters (
    letter_id uuid PRIMARY KEY,
    user_id uuid,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    next_at timestamptz NOT NULL,
    tries integer NOT NULL DEFAULT 0
);
CREATE INDEX letters_due ON letters (next_at);
ALTER TABLE sessions ADD COLUMN seed bytea NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN generation bigint NOT NULL DEFAULT 0 CHECK (generation >= 0);
ALTER TABLE sessions ADD COLUMN rotated_at timestamptz;
ALTER TABLE sessions ADD COLUMN factor_at timestamptz;
ALTER TABLE sessions ADD COLUMN last_used_at timestamptz;
ALTER TABLE sessions ADD COLUMN method text NOT NULL DEFAULT 'password+totp';
ALTER TABLE sessions ADD COLUMN client text NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN source text NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN ended_because text;
ALTER TABLE sessions ADD COLUMN provider text;
ALTER TABLE sessions ADD COLUMN provider_session text;
ALTER TABLE sessions ADD COLUMN id_token_sealed bytea;
UPDATE sessions SET factor_at = created_at, last_used_at = created_at, rotated_at = created_at;
ALTER TABLE sessions ALTER COLUMN factor_at SET NOT NULL;
ALTER TABLE sessions ALTER COLUMN last_used_at SET NOT NULL;
ALTER TABLE sessions ALTER COLUMN rotated_at SET NOT NULL;
CREATE INDEX sessions_by_end ON sessions (coalesce(ended_at, expires_at));
CREATE INDEX sessions_by_use ON sessions (last_used_at) WHERE ended_at IS NULL;
CREATE INDEX sessions_by_expiry ON sessions (expires_at) WHERE ended_at IS NULL;
CREATE TABLE client_codes (
    code_hash bytea PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    challenge text NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE TABLE api_keys (
    key_id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    name text NOT NULL,
    secret_hash bytea NOT NULL,
    scopes text[] NOT NULL,
    project_id uuid,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    last_used_at timestamptz,
    version bigint NOT NULL CHECK (version > 0)
);
CREATE INDEX api_keys_of_person ON api_keys (user_id, key_id);
CREATE INDEX api_keys_by_expiry ON api_keys (expires_at) WHERE ended_at IS NULL;
CREATE INDEX api_keys_by_end ON api_keys (ended_at) WHERE ended_at IS NOT NULL;
CREATE UNIQUE INDEX api_key_names ON api_keys (user_id, name) WHERE ended_at IS NULL;
ALTER TABLE signing_keys ADD COLUMN signs_from timestamptz;
ALTER TABLE signing_keys ADD COLUMN replaced_at timestamptz;
UPDATE signing_keys SET signs_from = created_at;
ALTER TABLE signing_keys ALTER COLUMN signs_from SET NOT NULL;
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
