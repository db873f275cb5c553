"""The audit log: who did what to which job, and what came of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.database.engine import writing
from gateway.database.tables import LONGEST_NAME, audit
from trainer.contract.redaction import redacted


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """One thing that was done, or refused."""

    who: str
    action: str
    """Such as `POST /api/training/jobs/{job_id}/cancel` or `keys create`."""
    outcome: str
    """The status of HTTP, or `done`."""
    address: str = ""
    """Where the caller came from; empty: from this computer's command line."""
    key_id: str | None = None
    project: str | None = None
    job: str | None = None
    at: float = field(default_factory=time.time)
    """Seconds since the epoch."""


async def note(engine: AsyncEngine, deed: Deed) -> None:
    """Write it down."""
    row = asdict(deed)
    for name, most in (("who", LONGEST_NAME), ("action", 200), ("address", 64), ("job", 64)):
        row[name] = row[name] and redacted(row[name])[:most]
    async with writing(engine) as connection:
        await connection.execute(insert(audit).values(row))


async def deeds(
    engine: AsyncEngine, most: int, *, job: str | None = None, who: str | None = None
) -> AsyncIterator[Deed]:
    """Yield what was done, the newest first.

    Args:
        engine: of the database.
        most: how many.
        job: only to this job; a beginning of its id is enough.
        who: only by this user, or by the key of this id.
    """
    query = select(audit).order_by(audit.c.id.desc()).limit(most)
    if job:
        query = query.where(audit.c.job.startswith(job, autoescape=True))
    if who:
        query = query.where((audit.c.who == who) | (audit.c.key_id == who))
    async with engine.connect() as connection:
        for row in await connection.execute(query):
            found = row._asdict()
            del found["id"]
            yield Deed(**found)


async def forget_before(engine: AsyncEngine, moment: float) -> int:
    """Remove what was done before a moment; return how many rows."""
    async with writing(engine) as connection:
        return (await connection.execute(delete(audit).where(audit.c.at < moment))).rowcount
