"""Points into the chunks of their curves, within the caller's transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sqlalchemy import Connection, and_, bindparam, delete, func, insert, select

from gateway.metrics.codec import Steps, Values, binned, merged, pack, unpack
from gateway.metrics.series import Curves, curves_of
from gateway.metrics.tables import LEVELS, chunks, series, tail
from trainer.contract.metrics import Record

CHUNK = 1000  # points; a chunk that has as many is closed
AT_ONCE = 500  # names or ids in one statement; SQLite takes 32,766 values, PostgreSQL 32,767
OPEN_STEPS = 100  # in the tail of a job, before they are merged into its chunks

Chunk = tuple[Steps, Values]


def merge_tail(connection: Connection, job: int, records: Sequence[Record] = ()) -> None:
    """Move what a job's tail holds, and further records, into its chunks; its row must be locked."""
    rows = connection.execute(_TAIL, {"job": job}).all()
    found = [record for row in rows for record in json.loads(row.records)]
    if curves := curves_of([*found, *records]):
        merge(connection, job, curves)
    if rows:
        connection.execute(_DROP_TAIL, {"job": job, "last": rows[-1].id})


def tail_records(connection: Connection, job: int) -> list[Record]:
    """Return the records of a job that are in no chunk yet, in the order in which they came."""
    rows = connection.execute(_TAIL, {"job": job}).all()
    return [record for row in rows for record in json.loads(row.records)]


def merge(connection: Connection, job: int, curves: Curves) -> None:
    """Add points to a job's curves; of a step that is there, the new value counts."""
    ids = _series_ids(connection, job, list(curves))
    starts = {ids[name]: int(curve[0].min()) for name, curve in curves.items()}
    old = _from_there_on(connection, starts)
    new = {ids[name]: curve for name, curve in curves.items()}
    gone, rows = _changes(old, new)
    if gone:
        connection.execute(_DROP_CHUNK, gone)
    if rows:
        connection.execute(insert(chunks), rows)


def drop_points(connection: Connection, job: int) -> None:
    """Remove all that is stored of a job's curves."""
    of_job = select(series.c.id).where(series.c.job_id == job)
    connection.execute(delete(chunks).where(chunks.c.series_id.in_(of_job)))
    connection.execute(delete(series).where(series.c.job_id == job))
    connection.execute(delete(tail).where(tail.c.job_id == job))


def _series_ids(connection: Connection, job: int, names: list[str]) -> dict[str, int]:
    known = select(series.c.name, series.c.id).where(series.c.job_id == job)
    found = {row.name: row.id for row in connection.execute(known)}
    missing = [name for name in names if name not in found]
    if missing:
        connection.execute(insert(series), [{"job_id": job, "name": n} for n in missing])
        found = {row.name: row.id for row in connection.execute(known)}
    return {name: found[name] for name in names}


def _from_there_on(connection: Connection, starts: dict[int, int]) -> dict[int, dict[int, bytes]]:
    """Return by series the chunks from the one on that a step belongs to, by their first step."""
    found: dict[int, dict[int, bytes]] = {}
    # One step for all: nearly always they begin at the same one.
    least, ids = min(starts.values()), list(starts)
    for at in range(0, len(ids), AT_ONCE):
        query = {"least": least, "series": ids[at : at + AT_ONCE]}
        for row in connection.execute(_OLD, query).all():
            found.setdefault(row.series_id, {})[row.first_step] = row.data
    return found


def _changes(
    old: dict[int, dict[int, bytes]], new: dict[int, Chunk]
) -> tuple[list[dict[str, int]], list[dict[str, Any]]]:
    """Return the keys of chunks that are replaced, and the rows that replace them."""
    gone: list[dict[str, int]] = []
    rows: list[dict[str, Any]] = []
    for id, curve in new.items():
        before = {first: unpack(data) for first, data in old.get(id, {}).items()}
        touched = _touched(before, int(curve[0].min()))
        gone += [{"id": id, "first": first} for first in touched]
        points = merged([*(before[first] for first in touched), curve])
        for at in range(0, len(points[0]), CHUNK):
            part = points[0][at : at + CHUNK], points[1][:, at : at + CHUNK]
            rows.append(_row(id, part))
    return gone, rows


def _touched(before: dict[int, Chunk], start: int) -> list[int]:
    """Return the first steps of the chunks that change, by step."""
    firsts = sorted(before)
    # A closed chunk that ends before the new points stays as it is.
    return [n for n in firsts if before[n][0][-1] >= start or len(before[n][0]) < CHUNK]


def _row(id: int, part: Chunk) -> dict[str, Any]:
    levels = {
        column.name: pack(*(part if every == 1 else binned(*part, every)))
        for every, column in LEVELS.items()
    }
    return {"series_id": id, "first_step": int(part[0][0]), "points": len(part[0]), **levels}


def decoded(rows: Iterable[Any]) -> dict[int, Chunk]:
    """Return by series the points of rows that come by their first step."""
    parts: dict[int, list[Chunk]] = {}
    for row in rows:
        parts.setdefault(row.series_id, []).append(unpack(row.data))
    return {
        id: (np.concatenate([p[0] for p in each]), np.concatenate([p[1] for p in each], axis=1))
        for id, each in parts.items()
    }


_TAIL = (
    select(tail.c.id, tail.c.records).where(tail.c.job_id == bindparam("job")).order_by(tail.c.id)
)
_DROP_TAIL = delete(tail).where(tail.c.job_id == bindparam("job"), tail.c.id <= bindparam("last"))
_DROP_CHUNK = delete(chunks).where(
    chunks.c.series_id == bindparam("id"),
    chunks.c.first_step == bindparam("first"),
)
_one = chunks.alias("one")
_starts = (
    select(
        series.c.id,
        func.coalesce(
            select(func.max(_one.c.first_step))
            .where(
                _one.c.series_id == series.c.id,
                _one.c.first_step <= bindparam("least"),
            )
            .scalar_subquery(),
            0,
        ).label("start"),
    )
    .where(series.c.id.in_(bindparam("series", expanding=True)))
    .subquery("starts")
)
_OLD = select(chunks.c.series_id, chunks.c.first_step, chunks.c.ones.label("data")).join(
    _starts,
    and_(
        chunks.c.series_id == _starts.c.id,
        chunks.c.first_step >= _starts.c.start,
    ),
)
