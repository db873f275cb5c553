"""Curves and records out of the store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, func, or_, select

from gateway.metrics.axes import POSITIONS, positions
from gateway.metrics.codec import Steps, Values, binned, merged, unpack
from gateway.metrics.merging import AT_ONCE, Chunk, decoded, tail_records
from gateway.metrics.series import Curves, curves_of
from gateway.metrics.tables import LEVELS, chunks, jobs, series, tail

Key = tuple[str, str]
"""A job and a metric."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A metric over a job: every point of it, or what stands for several."""

    job: str
    metric: str
    every: int
    """How many points one stands for: 1, 10 or 100."""
    steps: Steps
    x: Values
    """Of shape (points): where each lies on the axis that was asked for."""
    values: Values
    """Of shape (1, points), or (3, points): least, largest and mean of what one stands for."""


def curves(
    connection: Connection, keys: Sequence[Key], *, x: str, points: int | None, after: int
) -> list[Curve]:
    """Return curves in the order of their keys; those that are not there are left out.

    Args:
        connection: to the database.
        keys: which.
        x: a name in `axes.AXES`.
        points: how many a curve is to have, at about; None: all.
        after: only of later steps than this.
    """
    ids = job_ids(connection, {job for job, _ in keys})
    extra = POSITIONS[x]
    names = {ids[job]: {*extra, *(m for j, m in keys if j == job)} for job in ids}
    every = 1 if points is None else _every(connection, keys, ids, points)
    found = read(connection, names, every=every, after=after)
    result = []
    for job, metric in keys:
        of_job = found.get(ids.get(job, -1), {})
        if metric in of_job:
            steps, values = of_job[metric]
            at = positions(x, steps, of_job)
            result.append(Curve(job, metric, every, steps, at, values))
    return result


def read(
    connection: Connection,
    names: Mapping[int, Iterable[str] | None],
    *,
    every: int = 1,
    after: int = -1,
) -> dict[int, Curves]:
    """Return by job its curves by name, what was added last among them.

    Args:
        connection: to the database.
        names: the metrics by job; None: all of the job.
        every: how many points one is to stand for: a key of `LEVELS`.
        after: only of later steps than this.
    """
    which = [
        series.c.job_id == job if wanted is None
        else (series.c.job_id == job) & series.c.name.in_(list(wanted))
        for job, wanted in names.items()
    ]  # fmt: skip
    if not which:
        return {}
    query = select(series.c.id, series.c.job_id, series.c.name).where(or_(*which))
    found = {row.id: (row.job_id, row.name) for row in connection.execute(query).all()}
    stored: dict[int, Curves] = {job: {} for job in names}
    for id, curve in _chunks(connection, list(found), every, after).items():
        job, name = found[id]
        stored[job][name] = curve
    for job, curves in _tails(connection, names).items():
        for name, curve in curves.items():
            stored[job][name] = _with_tail(stored[job].get(name), curve, every)
    return {job: _later(curves, after) for job, curves in stored.items()}


def newest(connection: Connection, job: str) -> Curves:
    """Return the last point of each metric of a job, all at the newest step."""
    ids = job_ids(connection, [job])
    if job not in ids:
        return {}
    last = (
        select(chunks.c.series_id, func.max(chunks.c.first_step).label("first"))
        .join(series, series.c.id == chunks.c.series_id)
        .where(series.c.job_id == ids[job])
        .group_by(chunks.c.series_id)
        .subquery()
    )
    query = (
        select(series.c.name, chunks.c.ones)
        .join(series, series.c.id == chunks.c.series_id)
        .join(
            last, (last.c.series_id == chunks.c.series_id) & (last.c.first == chunks.c.first_step)
        )
    )
    found = {row.name: unpack(row.ones) for row in connection.execute(query)}
    for name, curve in curves_of(tail_records(connection, ids[job])).items():
        found[name] = merged([found[name], curve]) if name in found else merged([curve])
    if not found:
        return {}
    step = max(steps[-1] for steps, _ in found.values())
    return {name: (np.array([step]), values[:, -1:]) for name, (_, values) in found.items()}


def job_ids(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Return the ids of jobs that have metrics, by name."""
    query = select(jobs.c.job, jobs.c.id).where(jobs.c.job.in_(sorted(names)))
    return {row.job: row.id for row in connection.execute(query)}


def _every(connection: Connection, keys: Sequence[Key], ids: Mapping[str, int], points: int) -> int:
    """Return how many points one has to stand for, so that no curve has more than wanted."""
    # The names of other jobs' metrics make the answer no worse than it is for these jobs.
    query = (
        select(func.sum(chunks.c.points).label("points"))
        .join(series, series.c.id == chunks.c.series_id)
        .where(
            series.c.job_id.in_(list(ids.values())),
            series.c.name.in_({metric for _, metric in keys}),
        )
        .group_by(series.c.id)
    )
    most = max(connection.execute(query).scalars(), default=0)
    return next((every for every in LEVELS if most / every <= points), max(LEVELS))


def _chunks(connection: Connection, ids: Sequence[int], every: int, after: int) -> dict[int, Chunk]:
    rows: list[object] = []
    for at in range(0, len(ids), AT_ONCE):
        some = ids[at : at + AT_ONCE]
        query = select(chunks.c.series_id, LEVELS[every].label("data")).where(
            chunks.c.series_id.in_(some)
        )
        if after >= 0:
            # The chunk that the step lies in begins before it.
            last = chunks.alias("last")
            begins = (
                select(func.max(last.c.first_step))
                .where(
                    last.c.series_id == chunks.c.series_id,
                    last.c.first_step <= after,
                )
                .scalar_subquery()
            )
            query = query.where(chunks.c.first_step >= func.coalesce(begins, 0))
        query = query.order_by(chunks.c.series_id, chunks.c.first_step)
        rows += connection.execute(query).all()
    return decoded(rows)


def _tails(connection: Connection, names: Mapping[int, object]) -> dict[int, Curves]:
    query = select(tail.c.job_id).where(tail.c.job_id.in_(list(names))).distinct()
    found: dict[int, Curves] = {}
    for job in connection.execute(query).scalars().all():
        wanted = names[job]
        curves = curves_of(tail_records(connection, job))
        found[job] = {
            name: merged([curve])
            for name, curve in curves.items()
            if wanted is None or name in set(wanted)  # type: ignore[call-overload]
        }
    return found


def _with_tail(stored: Chunk | None, curve: Chunk, every: int) -> Chunk:
    if every == 1:
        return merged([stored, curve]) if stored else curve
    # Of steps that are written once more the levels are made anew when the tail is merged.
    later = curve[0] > (stored[0][-1] if stored else -1)
    if not later.any():
        return stored or binned(*curve, every)
    bins = binned(curve[0][later], curve[1][:, later], every)
    if stored is None:
        return bins
    return np.concatenate([stored[0], bins[0]]), np.concatenate([stored[1], bins[1]], axis=1)


def _later(curves: Curves, after: int) -> Curves:
    if after < 0:
        return curves
    kept = {}
    for name, (steps, values) in curves.items():
        start = int(np.searchsorted(steps, after, side="right"))
        if start < len(steps):
            kept[name] = steps[start:], values[:, start:]
    return kept
