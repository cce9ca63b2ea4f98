"""An index of the accounts whose registration has not come to its end, which are looked for all the time."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UNSETTLED = sa.text("state IN ('registering', 'pending', 'locked_pending')")


def upgrade() -> None:
    """Make the index."""
    op.create_index(
        "accounts_unsettled_idx",
        "accounts",
        ["created_at"],
        sqlite_where=UNSETTLED,
        postgresql_where=UNSETTLED,
    )
