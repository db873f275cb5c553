"""The tables of access."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
NAME, HASH = sa.String(200), sa.String(64)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "gateway_installation",
        sa.Column("name", sa.String(40), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "gateway_key",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("name", NAME, nullable=False),
        sa.Column("sha256", HASH, nullable=False),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("project", NAME),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("created_by", NAME, nullable=False),
        sa.Column("expires", sa.Double),
        sa.Column("revoked", sa.Double),
        sa.Column("last_used", sa.Double),
    )
    _people()
    op.create_table(
        "gateway_ticket",
        sa.Column("sha256", HASH, primary_key=True),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("expires", sa.Double, nullable=False, index=True),
    )
    op.create_table(
        "gateway_audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("at", sa.Double, nullable=False, index=True),
        sa.Column("who", NAME, nullable=False),
        sa.Column("key_id", sa.String(16)),
        sa.Column("project", NAME),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("action", sa.String(200), nullable=False),
        sa.Column("job", sa.String(64), index=True),
        sa.Column("outcome", sa.String(40), nullable=False),
    )


def _people() -> None:
    op.create_table(
        "gateway_user",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("password", sa.Text),
        sa.Column("scopes", sa.String(100), nullable=False),
        sa.Column("project", NAME),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    op.create_table(
        "gateway_session",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column(
            "user_name",
            NAME,
            sa.ForeignKey("gateway_user.name", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("sha256", HASH, nullable=False),
        sa.Column("previous_sha256", HASH),
        sa.Column("previous_until", sa.Double),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("rotated", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
    )
