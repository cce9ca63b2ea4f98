"""Accounts and used tokens. A migration that was released is never edited."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "accounts",
        sa.Column("localpart", sa.String, nullable=False),
        sa.Column("issuer", sa.String, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_seen_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("localpart", name="accounts_pkey"),
        sa.UniqueConstraint("subject", "issuer", name="accounts_subject_issuer_key"),
    )
    op.create_table(
        "used_tokens",
        sa.Column("issuer", sa.String, nullable=False),
        sa.Column("token_id", sa.String, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("issuer", "token_id", name="used_tokens_pkey"),
    )
    op.create_index("used_tokens_expires_at_idx", "used_tokens", ["expires_at"])
