"""Appends to the store: those that wait are committed together, and each is on disk when it returns."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from gateway.metrics.database import WholeTransactions
from gateway.metrics.merging import OPEN_STEPS, merge_tail
from gateway.metrics.tables import jobs, tail
from trainer.contract.metrics import Record

MOST_TOGETHER = 500  # appends in one transaction


@dataclass(slots=True)
class Append:
    """Records of a job that are to be stored, and whoever waits for it."""

    job: str
    records: Sequence[Record]
    followed: tuple[int, int] | None = None
    """From which byte of the job's file to which they were; not stored when others were faster."""
    stored: asyncio.Future[bool] = field(default_factory=asyncio.Future)


@dataclass(slots=True)
class KnownJob:
    """What the writer knows of a job: others may have changed it since."""

    id: int
    followed: int
    open_steps: int
    """In its tail."""


class Writer:
    """Commits what is appended, as much at a time as came during the commit before."""

    def __init__(self, database: WholeTransactions) -> None:
        self._database = database
        self._waiting: list[Append] = []
        self._jobs: dict[str, KnownJob] = {}
        self._task: asyncio.Task[None] | None = None
        self.commits: Counter[str] = Counter()
        """How often this process has added to a job's revision."""

    async def append(self, wanted: Append) -> bool:
        """Store records; whether they were, when this returns, is on disk.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: they are not stored; they may be sent again.
        """
        self._waiting.append(wanted)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._commit_all())
        # A caller that gives up does not keep the others' records from being stored.
        return await asyncio.shield(wanted.stored)

    async def close(self) -> None:
        """Store what still waits."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def forget(self, job: str) -> None:
        """Look the job up again at its next append: it was removed, or built anew."""
        self._jobs.pop(job, None)

    async def _commit_all(self) -> None:
        while self._waiting:
            taken = self._waiting[:MOST_TOGETHER]
            del self._waiting[:MOST_TOGETHER]
            try:
                done = await self._commit(taken)
            except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is
                for each in taken:
                    self.forget(each.job)
                    _tell(each, error=error)
            else:
                self.commits.update({each.job for each in taken})
                for each, stored in zip(taken, done, strict=True):
                    _tell(each, stored=stored)

    async def _commit(self, taken: Sequence[Append]) -> list[bool]:
        names = sorted({each.job for each in taken})
        if missing := [name for name in names if name not in self._jobs]:
            # Transactions of their own: on SQLite one that begins by reading may not write later.
            for name in missing:
                await ensure_job(self._database, name)
            await self._database.run(lambda connection: self._look_up(connection, missing))
        return await self._database.run(lambda connection: self._store(connection, taken))

    def _look_up(self, connection: Connection, names: Sequence[str]) -> None:
        held = (
            select(func.coalesce(func.sum(tail.c.steps), 0))
            .where(tail.c.job_id == jobs.c.id)
            .scalar_subquery()
        )
        query = select(jobs.c.job, jobs.c.id, jobs.c.followed, held).where(jobs.c.job.in_(names))
        for name, *facts in connection.execute(query):
            self._jobs[name] = KnownJob(*facts)

    def _store(self, connection: Connection, taken: Sequence[Append]) -> list[bool]:
        # This comes first: it takes the lock under which tails are merged, in the same order
        # everywhere, and on SQLite the one of the whole database.
        ids = sorted({self._jobs[each.job].id for each in taken})
        now = time.time()
        connection.execute(_TOUCH, [{"job_id": id, "now": now} for id in ids])
        done = [self._is_new(connection, each) for each in taken]
        by_job: dict[str, list[Record]] = {}
        for each, fresh in zip(taken, done, strict=True):
            if fresh:
                by_job.setdefault(each.job, []).extend(each.records)
        rows = [row for name, new in by_job.items() for row in self._add(connection, name, new)]
        if rows:
            connection.execute(insert(tail), rows)
        return done

    def _is_new(self, connection: Connection, wanted: Append) -> bool:
        """Whether records are to be stored: each byte of a file once, and others only without one."""
        known = self._jobs[wanted.job]
        if wanted.followed is None:
            return not known.followed
        start, end = wanted.followed
        here = {"job_id": known.id, "start": start, "end": end}
        if connection.execute(_FOLLOW, here).rowcount != 1:
            return False
        known.followed = end
        return True

    def _add(
        self, connection: Connection, name: str, records: list[Record]
    ) -> list[dict[str, object]]:
        """Merge records with the tail, if it is long enough; else return the row for the tail."""
        known = self._jobs[name]
        # Other replicas append to the tail, too: the count is a guess, and does no harm.
        known.open_steps += len(records)
        if known.open_steps < OPEN_STEPS:
            content = json.dumps(records).encode()
            return [{"job_id": known.id, "steps": len(records), "records": content}]
        merge_tail(connection, known.id, records)
        known.open_steps = 0
        return []


async def ensure_job(database: WholeTransactions, name: str) -> None:
    """Give a job a row that has none."""
    query = select(jobs.c.id).where(jobs.c.job == name)
    if await database.run(lambda connection: connection.execute(query).first()) is None:
        row = {"job": name, "updated": time.time()}
        # Another replica may be faster.
        with suppress(IntegrityError):
            await database.run(lambda connection: connection.execute(insert(jobs), row))


def _tell(each: Append, *, stored: bool = False, error: BaseException | None = None) -> None:
    if each.stored.done():
        return
    if error is None:
        each.stored.set_result(stored)
    else:
        each.stored.set_exception(error)


_TOUCH = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"))
    .values(revision=jobs.c.revision + 1, updated=bindparam("now"))
)
_FOLLOW = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"), jobs.c.followed == bindparam("start"))
    .values(followed=bindparam("end"))
)
