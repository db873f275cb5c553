"""The tables of the metrics store; see docs/metrics.md.

metric_job      a job, how far its file is followed, and how often it was added to
metric_tail     what was added last, as it came: an append is one row
metric_series   a metric of a job
metric_chunk    up to 1,000 points of it, and what stands for every 10 and every 100 of them
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
)

from gateway.database.tables import metadata, row_id

LONGEST_JOB, LONGEST_METRIC = 64, 200  # characters

jobs = Table(
    "metric_job",
    metadata,
    Column("id", row_id, primary_key=True),
    Column("job", String(LONGEST_JOB), nullable=False, unique=True),
    Column("followed", BigInteger, nullable=False, default=0),  # bytes of its metrics.jsonl
    Column("revision", BigInteger, nullable=False, default=0),
    Column("updated", Double, nullable=False),  # seconds since 1970
)
tail = Table(
    "metric_tail",
    metadata,
    Column("id", row_id, primary_key=True),
    Column("job_id", row_id, ForeignKey("metric_job.id"), nullable=False, index=True),
    Column("steps", Integer, nullable=False),
    Column("records", LargeBinary, nullable=False),  # JSON
)
series = Table(
    "metric_series",
    metadata,
    Column("id", row_id, primary_key=True),
    Column("job_id", row_id, ForeignKey("metric_job.id"), nullable=False),
    Column("name", String(LONGEST_METRIC), nullable=False),
    UniqueConstraint("job_id", "name", name="uq_metric_series"),
)
chunks = Table(
    "metric_chunk",
    metadata,
    Column("series_id", row_id, ForeignKey("metric_series.id"), primary_key=True),
    Column("first_step", BigInteger, primary_key=True, autoincrement=False),
    Column("points", SmallInteger, nullable=False),
    # In one row, which takes SQLite 4 bytes a point where three rows take 6.7; and the large one
    # last: whoever reads another does not read its pages.
    Column("hundreds", LargeBinary, nullable=False),
    Column("tens", LargeBinary, nullable=False),
    Column("ones", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
LEVELS = {1: chunks.c.ones, 10: chunks.c.tens, 100: chunks.c.hundreds}
"""Where the points are, by how many of them one stands for."""
