"""The metrics store: what trainings measured, in the gateway's database.

`metrics.jsonl` stays the truth: a job whose file is here can be built anew from it at any time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, Select, select, union, update
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.metrics import reading
from gateway.metrics.axes import AXES
from gateway.metrics.database import WholeTransactions
from gateway.metrics.merging import drop_points, merge, merge_tail
from gateway.metrics.reading import Curve, Key
from gateway.metrics.series import Curves, is_name, records_of
from gateway.metrics.tables import LONGEST_JOB, LONGEST_METRIC, jobs, series, tail
from gateway.metrics.writing import Append, Writer, ensure_job
from trainer.contract.errors import ConfigError
from trainer.contract.metrics import Record, is_step, parse_records
from trainer.contract.tail import TailReader

MOST_METRICS = 2000  # of a job
DAY = 86_400.0
Heard = Callable[[str, Sequence[Record]], None]


class MetricsStore:
    """Takes records of jobs and returns curves.

    Points are told apart by job, step and metric: what is sent twice is stored once, and of two
    different values the later one counts.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._database = WholeTransactions(engine)
        self._writer = Writer(self._database)
        self._listeners: list[Heard] = []
        self.points_taken = 0
        """How many single values were stored by this process."""

    def listen(self, heard: Heard) -> None:
        """Call a function with every job and its records that this process has stored."""
        self._listeners.append(heard)

    async def append(self, job: str, records: Sequence[Record]) -> None:
        """Store records; when this returns they are on disk.

        Those of a job whose own file is followed are not stored: they are in the file.

        Args:
            job: its id.
            records: as in `metrics.jsonl`: a step, and numbers by name.

        Raises:
            ConfigError: a job, step or metric that cannot be.
            sqlalchemy.exc.SQLAlchemyError: nothing is stored; it may be sent again.
        """
        refuse_impossible(job, records)
        if records:
            await self._store(Append(job, records))

    async def append_followed(
        self, job: str, records: Sequence[Record], start: int, end: int
    ) -> bool:
        """Store what stands in a job's file from byte `start` to `end`; False: others did."""
        return await self._store(Append(job, records, (start, end)))

    async def _store(self, wanted: Append) -> bool:
        stored = await self._writer.append(wanted)
        if stored and wanted.records:
            self.points_taken += sum(map(len, wanted.records)) - len(wanted.records)
            for heard in self._listeners:
                heard(wanted.job, wanted.records)
        return stored

    async def curves(
        self,
        keys: Sequence[Key],
        *,
        x: str = "step",
        points: int | None = None,
        after: int = -1,
    ) -> list[Curve]:
        """Return curves; see `gateway.metrics.reading.curves`.

        Raises:
            ConfigError: there is no such axis.
        """
        if x not in AXES:
            raise ConfigError(f"x: there is no axis {x!r}.", f"Take one of {', '.join(AXES)}.")
        return await self._database.run(
            lambda connection: reading.curves(connection, keys, x=x, points=points, after=after)
        )

    async def all_curves(self, job: str, *, after: int = -1) -> Curves:
        """Return every metric of a job by name, each point of it."""

        def work(connection: Connection) -> Curves:
            ids = reading.job_ids(connection, [job])
            found = reading.read(connection, dict.fromkeys(ids.values()), after=after)
            return found.get(ids.get(job, -1), {})

        return await self._database.run(work)

    async def records(self, job: str, *, after: int = -1) -> list[Record]:
        """Return a job's records of later steps than `after`, one a step."""
        return await asyncio.to_thread(records_of, await self.all_curves(job, after=after))

    async def metrics(self, job_names: Iterable[str]) -> dict[str, list[str]]:
        """Return the names of the metrics of jobs; those in no chunk yet are left out."""
        query = (
            select(jobs.c.job, series.c.name)
            .join(series, series.c.job_id == jobs.c.id)
            .where(jobs.c.job.in_(sorted(job_names)))
            .order_by(series.c.name)
        )
        found: dict[str, list[str]] = {}
        for job, name in await self._all(query):
            found.setdefault(job, []).append(name)
        return found

    async def followed(self, job_names: Iterable[str]) -> dict[str, int]:
        """Return how many bytes of their files are followed, by job; others have none."""
        query = select(jobs.c.job, jobs.c.followed).where(jobs.c.job.in_(sorted(job_names)))
        return {row.job: row.followed for row in await self._all(query)}

    async def foreign(self, job_names: Iterable[str]) -> dict[str, int]:
        """Return how often others than this process have added to jobs; it only counts up.

        It may be too small for a moment, while a transaction of ours ends.
        """
        wanted = sorted(job_names)
        if not wanted:
            return {}
        query = select(jobs.c.job, jobs.c.revision).where(jobs.c.job.in_(wanted))
        rows = await self._all(query)
        return {row.job: row.revision - self._writer.commits[row.job] for row in rows}

    async def newest(self, job: str) -> Record | None:
        """Return the newest value of each metric of a job, with its newest step; None: it has none."""
        newest = partial(reading.newest, job=job)
        record = records_of(await self._database.run(newest))
        return record[0] if record else None

    async def rebuild(self, job: str, path: Path) -> int:
        """Build a job's curves anew from its file; return how many lines were unreadable.

        Raises:
            ConfigError: there is no such file.
        """
        if not await asyncio.to_thread(path.is_file):
            raise ConfigError(
                f"There is no {path}, from which the metrics of {job} could be built.",
                "Build them where the job's files are; what other programs reported has no file here.",
            )
        await ensure_job(self._database, job)
        self._writer.forget(job)

        def work(connection: Connection) -> int:
            id, skipped, reader = _locked(connection, job), 0, TailReader(path)
            drop_points(connection, id)
            for lines in reader.chunks():
                records, bad = parse_records(lines)
                skipped += bad
                merge_tail(connection, id, records)
            here = update(jobs).where(jobs.c.id == id).values(followed=reader.offset)
            connection.execute(here)
            return skipped

        return await self._database.run(work)

    async def import_curves(self, job: str, curves: Curves) -> None:
        """Store whole curves, such as those of another program; what the job had is kept."""
        refuse_impossible(job, [])
        await ensure_job(self._database, job)

        def work(connection: Connection) -> None:
            id = _locked(connection, job)
            merge_tail(connection, id)
            merge(connection, id, curves)

        await self._database.run(work)

    async def prune(self, days: float, now: float | None = None) -> list[str]:
        """Remove the points of jobs that were last added to so many days ago; return which.

        Their files stay, and so does how far they are followed: nothing comes back by itself.
        """
        before = (time.time() if now is None else now) - days * DAY
        holds = jobs.c.id.in_(union(select(series.c.job_id), select(tail.c.job_id)))
        query = select(jobs.c.job).where(jobs.c.updated < before, holds)
        old = [job for (job,) in await self._all(query)]
        for job in old:
            await self._database.run(partial(_drop, job=job))
            self._writer.forget(job)
        return old

    async def close(self) -> None:
        """Store what still waits. The engine is its maker's to dispose of."""
        await self._writer.close()
        await self._database.close()

    async def _all(self, query: Select[Any]) -> Sequence[Row[Any]]:
        return await self._database.run(lambda connection: connection.execute(query).all())


def _locked(connection: Connection, job: str, *, touch: bool = True) -> int:
    """Lock a job for this transaction, which must not have read anything, and return its id."""
    # Any change of the row takes the lock.
    values: dict[str, Any] = {"revision": jobs.c.revision + 1}
    values |= {"updated": time.time()} if touch else {}
    connection.execute(update(jobs).where(jobs.c.job == job).values(**values))
    query = select(jobs.c.id).where(jobs.c.job == job)
    return int(connection.execute(query).scalar_one())


def _drop(connection: Connection, job: str) -> None:
    drop_points(connection, _locked(connection, job, touch=False))


def refuse_impossible(job: str, records: Iterable[Record]) -> None:
    """Refuse what the tables cannot hold.

    Raises:
        ConfigError: naming the field.
    """
    if not (0 < len(job) <= LONGEST_JOB and job.isprintable()):
        raise ConfigError(f"job_id: {job[:80]!r} is no id of a job.", _limits(LONGEST_JOB))
    names: set[str] = set()
    for record in records:
        if not is_step(record.get("step")):
            raise ConfigError(
                f"step: {record.get('step')!r} is no step.", "Send a whole number from 0."
            )
        names |= record.keys()
    for name in names:
        if not is_name(name):
            raise ConfigError(f"metrics: {name[:80]!r} is no name.", _limits(LONGEST_METRIC))
    if len(names) > MOST_METRICS:
        raise ConfigError(f"metrics: {len(names)} of one job.", f"Send at most {MOST_METRICS}.")


def _limits(most: int) -> str:
    return f"It has 1 to {most} printable characters."
