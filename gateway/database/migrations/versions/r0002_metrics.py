"""The tables of the metrics store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "metric_job",
        sa.Column("id", ID, primary_key=True),
        sa.Column("job", sa.String(64), nullable=False, unique=True),
        sa.Column("followed", sa.BigInteger, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.Double, nullable=False),
    )
    op.create_table(
        "metric_tail",
        sa.Column("id", ID, primary_key=True),
        sa.Column("job_id", ID, sa.ForeignKey("metric_job.id"), nullable=False, index=True),
        sa.Column("steps", sa.Integer, nullable=False),
        sa.Column("records", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "metric_series",
        sa.Column("id", ID, primary_key=True),
        sa.Column("job_id", ID, sa.ForeignKey("metric_job.id"), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.UniqueConstraint("job_id", "name", name="uq_metric_series"),
    )
    op.create_table(
        "metric_chunk",
        sa.Column("series_id", ID, sa.ForeignKey("metric_series.id"), primary_key=True),
        sa.Column("first_step", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("points", sa.SmallInteger, nullable=False),
        sa.Column("hundreds", sa.LargeBinary, nullable=False),
        sa.Column("tens", sa.LargeBinary, nullable=False),
        sa.Column("ones", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    if op.get_bind().dialect.name == "postgresql":
        # They are compressed already.
        for name in ("hundreds", "tens", "ones"):
            op.execute(f"ALTER TABLE metric_chunk ALTER COLUMN {name} SET STORAGE EXTERNAL")
