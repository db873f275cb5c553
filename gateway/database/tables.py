"""The tables of access: who may come in, who is in, and what was done.

All times are seconds since the epoch. No secret is kept, only its SHA-256: keys and sessions are
random, 256 bits, so that nobody finds them by trying. Passwords are hashed by argon2.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
)

# Names of constraints that are the same everywhere, so that a migration can name them.
NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
LONGEST_NAME = 200  # characters
SHA256 = 64  # hexadecimal digits
metadata = MetaData(naming_convention=NAMING)
# Only an INTEGER is SQLite's own row id.
row_id = BigInteger().with_variant(Integer, "sqlite")

installation = Table(
    "gateway_installation",
    metadata,
    # What all replicas share: the key that signs sessions and job tokens.
    Column("name", String(40), primary_key=True),
    Column("value", Text, nullable=False),
)
api_keys = Table(
    "gateway_key",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(LONGEST_NAME), nullable=False),
    Column("sha256", String(SHA256), nullable=False),
    Column("scopes", String(100), nullable=False),
    Column("project", String(LONGEST_NAME)),
    Column("created", Double, nullable=False),
    Column("created_by", String(LONGEST_NAME), nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
    Column("last_used", Double),
)
users = Table(
    "gateway_user",
    metadata,
    Column("name", String(LONGEST_NAME), primary_key=True),
    # None: signs in elsewhere, by OpenID Connect or a proxy.
    Column("password", Text),
    Column("scopes", String(100), nullable=False),
    Column("project", String(LONGEST_NAME)),
    Column("created", Double, nullable=False),
    Column("disabled", Boolean, nullable=False, server_default=false()),
)
sessions = Table(
    "gateway_session",
    metadata,
    Column("id", String(32), primary_key=True),
    Column(
        "user_name",
        String(LONGEST_NAME),
        ForeignKey("gateway_user.name", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("sha256", String(SHA256), nullable=False),
    # The secret before this one, which counts until this one has come back, and a little longer.
    Column("previous_sha256", String(SHA256)),
    Column("previous_until", Double),
    Column("created", Double, nullable=False),
    Column("rotated", Double, nullable=False),
    Column("expires", Double, nullable=False),
)
tickets = Table(
    "gateway_ticket",
    metadata,
    Column("sha256", String(SHA256), primary_key=True),
    Column("caller", Text, nullable=False),  # JSON
    Column("expires", Double, nullable=False, index=True),
)
audit = Table(
    "gateway_audit",
    metadata,
    Column("id", row_id, primary_key=True),
    Column("at", Double, nullable=False),
    Column("who", String(LONGEST_NAME), nullable=False),
    Column("key_id", String(16)),
    Column("project", String(LONGEST_NAME)),
    Column("address", String(64), nullable=False),
    Column("action", String(200), nullable=False),
    Column("job", String(64)),
    Column("outcome", String(40), nullable=False),
    Index("ix_gateway_audit_at", "at"),
    Index("ix_gateway_audit_job", "job"),
)
