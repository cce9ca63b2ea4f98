"""The last good JWK set of each source. A migration that was released is never edited."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "key_sets",
        sa.Column("source", sa.String, nullable=False),
        sa.Column("octets", sa.LargeBinary, nullable=False),
        sa.Column("fetched_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("source", name="key_sets_pkey"),
    )
