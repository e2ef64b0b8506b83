"""A certificate's row is stored as it is: its chain does not get smaller by compressing, which was tried for each; and its number is checked without a regular expression."""

from alembic import op

revision = "ca_0008"
down_revision = "ca_0007"
branch_labels = None
depends_on = None

STATEMENTS = """
ALTER TABLE certificates SET (toast_tuple_target = 8160);
ALTER TABLE certificates DROP CONSTRAINT certificates_certificate_id_check;
ALTER TABLE certificates ADD CONSTRAINT certificates_certificate_id_check
    CHECK (length(certificate_id) = 32 AND translate(certificate_id, '0123456789abcdef', '') = '')
"""


def upgrade() -> None:
    for statement in STATEMENTS.split(";\n"):
        op.execute(statement)
