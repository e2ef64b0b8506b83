"""Invitations, break-glass and the feed of activity."""

from alembic import op

revision = "projects_0004"
down_revision = "projects_0003"
branch_labels = None
depends_on = None

STATEMENTS = """
CREATE TABLE invitations (
    invitation_id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    user_id uuid NOT NULL,
    username text NOT NULL,
    role text NOT NULL CHECK (role IN ('data_owner', 'data_scientist')),
    purpose text NOT NULL,
    starts_at timestamptz,
    ends_at timestamptz,
    inviter_id uuid NOT NULL,
    inviter text NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    UNIQUE (project_id, user_id)
);
CREATE INDEX invitations_of_a_person ON invitations (user_id, invitation_id);
CREATE INDEX invitations_that_expire ON invitations (expires_at);
CREATE TABLE break_glass (
    break_glass_id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    user_id uuid NOT NULL,
    username text NOT NULL,
    reason text NOT NULL CHECK (reason <> ''),
    opened_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL CHECK (ends_at > opened_at),
    ended_at timestamptz,
    review_due_at timestamptz NOT NULL,
    reported_at timestamptz,
    verdict text CHECK (verdict IN ('justified', 'unjustified')),
    review text,
    reviewer_id uuid CHECK (reviewer_id <> user_id),
    reviewer text,
    reviewed_at timestamptz,
    version bigint NOT NULL CHECK (version > 0)
);
CREATE INDEX break_glass_of_a_project ON break_glass (project_id, break_glass_id);
CREATE INDEX break_glass_that_is_open ON break_glass (ends_at) WHERE ended_at IS NULL;
CREATE INDEX break_glass_without_review ON break_glass (review_due_at) WHERE reviewed_at IS NULL AND reported_at IS NULL;
ALTER TABLE memberships ADD COLUMN break_glass_id uuid;
ALTER TABLE memberships ADD CHECK (break_glass_id IS NULL OR (role = 'data_scientist' AND ends_at IS NOT NULL));
CREATE TABLE activity (
    activity_id uuid PRIMARY KEY,
    project_id uuid NOT NULL, -- no reference: it would lock the project, which whoever ends a membership must not wait for
    at timestamptz NOT NULL,
    deed text NOT NULL,
    actor_id uuid,
    actor text,
    subject_id uuid,
    subject text,
    details jsonb NOT NULL
);
CREATE INDEX activity_of_a_project ON activity (project_id, activity_id DESC);
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        if statement.strip():
            op.execute(statement)
