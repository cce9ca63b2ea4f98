"""Avatars that were set. A migration that was released is never edited."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of avatars."""
    op.create_table(
        "avatars",
        sa.Column("localpart", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("content", sa.String, nullable=False),
        sa.Column("mxc", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("localpart", name="avatars_pkey"),
    )
