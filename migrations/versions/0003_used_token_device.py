"""When and for which device a token was used, for `single_use_grace`."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; rows from before have none of it, and so no grace."""
    op.add_column("used_tokens", sa.Column("used_at", sa.BigInteger))
    op.add_column("used_tokens", sa.Column("device_id", sa.String))
    op.add_column("used_tokens", sa.Column("repeats", sa.BigInteger, nullable=False, server_default="0"))
