"""Sessions of Matrix Authentication Service, for `[session] method = "mas"`."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of personal sessions."""
    op.create_table(
        "personal_sessions",
        sa.Column("token_digest", sa.String, nullable=False),
        sa.Column("session_id", sa.String, nullable=False),
        sa.Column("localpart", sa.String, nullable=False),
        sa.Column("device_id", sa.String, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("token_digest", name="personal_sessions_pkey"),
    )
    op.create_index("personal_sessions_expires_at_idx", "personal_sessions", ["expires_at"])
    op.create_index("personal_sessions_localpart_device_id_idx", "personal_sessions", ["localpart", "device_id"])
