"""The tables as the code uses them; `migrations/` makes them, and a test compares the two."""

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
    }
)

# Accounts whose registration has not come to its end: few, so that finding them costs little whatever there is.
UNSETTLED = text("state IN ('registering', 'pending', 'locked_pending')")
# One row a Matrix account. Times are seconds since the epoch.
accounts = Table(
    "accounts",
    metadata,
    Column("localpart", String, primary_key=True),
    Column("issuer", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("state", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger),
    # The subject comes first: it is looked for whichever the issuer.
    UniqueConstraint("subject", "issuer"),
    Index("accounts_unsettled_idx", "created_at", sqlite_where=UNSETTLED, postgresql_where=UNSETTLED),
)

# Tokens that were used, where `single_use` is on; gone some time after the token itself has expired.
used_tokens = Table(
    "used_tokens",
    metadata,
    Column("issuer", String, nullable=False),
    Column("token_id", String, nullable=False),
    Column("expires_at", BigInteger, index=True),
    # When it was first used, for which device if its use may be repeated, and how often it was.
    Column("used_at", BigInteger),
    Column("device_id", String),
    Column("repeats", BigInteger, nullable=False, server_default="0"),
    PrimaryKeyConstraint("issuer", "token_id"),
)

# The avatar that a claim gave a user. Digests in place of address and image: an address may hold a secret.
avatars = Table(
    "avatars",
    metadata,
    Column("localpart", String, primary_key=True),
    Column("source", String, nullable=False),
    Column("content", String, nullable=False),
    Column("mxc", String, nullable=False),
)

# The last good JWK set of each URL, as it came.
key_sets = Table(
    "key_sets",
    metadata,
    Column("source", String, primary_key=True),
    Column("octets", LargeBinary, nullable=False),
    Column("fetched_at", BigInteger, nullable=False),
)

# The audit trail, a row an attempt. `at_ms` is in milliseconds since the epoch; "" is what is not known.
logins = Table(
    "logins",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at_ms", BigInteger, nullable=False, index=True),
    Column("outcome", String, nullable=False),
    Column("user_id", String, nullable=False),
    Column("issuer", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("device_id", String, nullable=False),
    Column("address", String, nullable=False),
    Column("user_agent", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("request_id", String, nullable=False),
)

# Sessions that Matrix Authentication Service opened for us, so that they can be ended there. A digest in place of the
# token; `expires_at` in seconds since the epoch, NULL for one that does not end by itself.
personal_sessions = Table(
    "personal_sessions",
    metadata,
    Column("token_digest", String, primary_key=True),
    Column("session_id", String, nullable=False),
    Column("localpart", String, nullable=False),
    Column("device_id", String, nullable=False),
    Column("expires_at", BigInteger, index=True),
    Index("personal_sessions_localpart_device_id_idx", "localpart", "device_id"),
)
