"""The store: appended, read, built anew and pruned, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import json
import math
import random

import numpy as np
import pytest
from sqlalchemy import func, select

from gateway.metrics.merging import CHUNK, OPEN_STEPS
from gateway.metrics.store import MetricsStore
from gateway.metrics.tables import chunks, tail
from trainer.contract.errors import ConfigError

JOB = "0f9b2c4e-0000-4000-8000-000000000001"


def record(step, **more):
    return {"step": step, "train_loss": 2.0 + math.sin(step), "epoch": step / 100, **more}


async def sizes(engine):
    """Return how many points each chunk of the first metric has."""
    query = select(chunks.c.series_id, chunks.c.points)
    async with engine.connect() as connection:
        rows = (await connection.execute(query.order_by(chunks.c.first_step))).all()
    return [points for id, points in rows if id == min(row[0] for row in rows)]


async def test_what_is_appended_is_read(store):
    await store.append(JOB, [record(1), record(2)])
    await store.append(JOB, [record(3, eval_loss=1.5), {"step": 3, "eval_accuracy": 0.25}])

    found = await store.records(JOB)
    (loss,) = await store.curves([(JOB, "train_loss")])

    assert [r["step"] for r in found] == [1, 2, 3]
    assert found[2] == record(3, eval_loss=1.5, eval_accuracy=0.25)
    assert loss.steps.tolist() == [1, 2, 3]
    assert await store.curves([("nobody", "train_loss"), (JOB, "nothing")]) == []


@pytest.mark.parametrize("seed", range(2))
async def test_any_order_and_repetition_gives_the_last_value_of_each_step(store, engine, seed):
    draw = random.Random(seed)  # noqa: S311 - no secret
    expected: dict[int, float] = {}
    step = 0
    for _ in range(40):
        # A resumed training begins again some steps before the last.
        step = max(0, step - draw.choice([0, 0, 0, 150, 1400]))
        count = draw.choice([1, 7, 120, 400])
        values = [float(draw.randrange(1 << 20)) for _ in range(count)]
        records = [{"step": step + n, "train_loss": value} for n, value in enumerate(values)]
        expected |= {r["step"]: r["train_loss"] for r in records}
        await store.append(JOB, records)
        step += count

    (curve,) = await store.curves([(JOB, "train_loss")])

    assert dict(zip(curve.steps.tolist(), curve.values[0].tolist(), strict=True)) == expected
    assert all(size == CHUNK for size in (await sizes(engine))[:-1])


async def test_a_late_evaluation_reaches_a_closed_chunk(store, engine):
    await store.append(JOB, [record(step) for step in range(2500)])
    late = [{"step": 30, "train_loss": -1.0}, {"step": 700, "eval_loss": 7.0}]
    await store.append(JOB, [*late, *({"step": step, "other": 0.0} for step in range(OPEN_STEPS))])

    assert await sizes(engine) == [1000, 1000, 500]
    loss, evaluation = await store.curves([(JOB, "train_loss"), (JOB, "eval_loss")])
    assert loss.steps.tolist() == list(range(2500))
    assert loss.values[0, 30] == -1.0
    assert evaluation.steps.tolist() == [700]


async def test_levels_keep_the_spike(store):
    values = [1.0] * 25_000
    values[12_345] = 99.0
    await store.append(JOB, [{"step": n, "train_loss": v} for n, v in enumerate(values)])

    (coarse,) = await store.curves([(JOB, "train_loss")], points=500)
    (middle,) = await store.curves([(JOB, "train_loss")], points=2500)
    (whole,) = await store.curves([(JOB, "train_loss")])

    assert (coarse.every, middle.every, whole.every) == (100, 10, 1)
    assert (len(coarse.steps), len(middle.steps), len(whole.steps)) == (250, 2500, 25_000)
    assert coarse.values[1].max() == middle.values[1].max() == 99.0
    assert coarse.values[2, 123] == pytest.approx(1.98)


async def test_the_newest_points_are_in_every_level(store):
    await store.append(JOB, [record(step) for step in range(1000)])
    await store.append(JOB, [record(step) for step in range(1000, 1042)])

    (coarse,) = await store.curves([(JOB, "train_loss")], points=20)

    assert coarse.steps.tolist() == list(range(0, 1042, 100))


async def test_only_what_is_new(store):
    await store.append(JOB, [record(step) for step in range(2105)])

    (curve,) = await store.curves([(JOB, "train_loss")], after=1999)
    records = await store.records(JOB, after=2103)

    assert curve.steps.tolist() == list(range(2000, 2105))
    assert [r["step"] for r in records] == [2104]


async def test_numbers_that_float32_has_not(store):
    hard = {"flos": 1e40, "seen": (1 << 53) - 1, "spoilt": math.nan, "gone": -math.inf, "n": True}
    await store.append(JOB, [{"step": 1, **hard, "timestamp": "2026-01-19T10:30:00.125+00:00"}])
    await store.append(JOB, [{"step": n} for n in range(200)])  # merges

    (found,) = await store.records(JOB)

    assert math.isnan(found.pop("spoilt"))
    assert found == {
        "step": 1,
        "flos": 1e40,
        "seen": (1 << 53) - 1,
        "gone": -math.inf,
        "n": 1.0,
        "timestamp": "2026-01-19T10:30:00.125+00:00",
    }


async def test_many_at_once_and_two_replicas_lose_nothing(store, engine):
    other = MetricsStore(engine)
    jobs = [f"job-{n}" for n in range(2)]

    await asyncio.gather(
        *(
            (store, other)[step % 2].append(job, [record(step)])
            for step in range(250)
            for job in jobs
        )
    )

    await other.close()
    for job in jobs:
        assert [r["step"] for r in await store.records(job)] == list(range(250))
    async with engine.connect() as connection:
        waiting = (await connection.execute(select(func.sum(tail.c.steps)))).scalar_one()
    assert (waiting or 0) < 2 * 250  # some of it is in chunks


async def test_a_byte_of_a_file_counts_once(store, engine):
    other = MetricsStore(engine)

    taken = [
        await store.append_followed(JOB, [record(1)], 0, 90),
        await other.append_followed(JOB, [record(1)], 0, 90),
        await other.append_followed(JOB, [record(2)], 90, 180),
    ]
    await store.append(JOB, [record(1, epoch=0)])  # reported as well, in other words

    assert taken == [True, False, True]
    assert await store.records(JOB) == [record(1), record(2)]
    assert await store.followed([JOB, "x"]) == {JOB: 180}
    await other.close()


async def test_it_is_built_anew_from_the_file(store, tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(record(step)) for step in range(1500)]
    path.write_text("\n".join([*lines, "no json", ""]))
    await store.append_followed(JOB, [{"step": 9_999, "wrong": 1.0}], 0, 10)

    skipped = await store.rebuild(JOB, path)

    assert skipped == 1
    assert await store.followed([JOB]) == {JOB: path.stat().st_size}
    assert len(await store.records(JOB)) == 1500
    assert await store.metrics([JOB]) == {JOB: ["epoch", "train_loss"]}
    with pytest.raises(ConfigError, match="There is no"):
        await store.rebuild(JOB, tmp_path / "nothing")


async def test_old_points_are_pruned_and_do_not_come_back(store):
    await store.append_followed("old", [record(n) for n in range(200)], 0, 500)
    await store.append_followed("short", [record(1)], 0, 500)
    later = 8 * 86_400.0

    import time

    assert await store.prune(7) == []
    assert sorted(await store.prune(7, time.time() + later)) == ["old", "short"]
    assert await store.records("old") == await store.records("short") == []
    assert await store.followed(["old"]) == {"old": 500}
    assert await store.prune(7, time.time() + later) == []


@pytest.mark.parametrize(
    ("job", "records", "word"),
    [
        ("", [], "job_id"),
        ("x" * 65, [], "job_id"),
        ("a\0b", [], "job_id"),
        (JOB, [{"step": -1}], "step"),
        (JOB, [{"step": True}], "step"),
        (JOB, [{"train_loss": 1.0}], "step"),
        (JOB, [{"step": 1, "a\0b": 1.0}], "metrics"),
        (JOB, [{"step": 1} | {f"m{n}": 1.0 for n in range(3000)}], "at most 2000"),
    ],
)
async def test_what_cannot_be_is_refused(store, job, records, word):
    with pytest.raises(ConfigError) as told:
        await store.append(job, records)

    assert word in str(told.value)


async def test_axes(store):
    times = [f"2026-01-19T10:00:{n:02}+00:00" for n in range(0, 50, 10)]
    await store.append(
        JOB,
        [record(10 * n, timestamp=time, tokens_per_second=100.0) for n, time in enumerate(times)],
    )
    await store.append(JOB, [{"step": 15, "eval_loss": 1.0}])

    async def on(axis, metric="train_loss"):
        (curve,) = await store.curves([(JOB, metric)], x=axis)
        return curve.x.tolist()

    assert await on("step") == [0, 10, 20, 30, 40]
    assert await on("epoch") == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert await on("seconds") == [0, 10, 20, 30, 40]
    assert await on("tokens") == [1000, 2000, 3000, 4000, 5000]
    assert await on("seconds", "eval_loss") == [15]
    assert (await on("time"))[0] == 1768816800
    with pytest.raises(ConfigError, match="no axis 'colour'"):
        await on("colour")
    await store.append("bare", [{"step": 1, "train_loss": 1.0}])
    (curve,) = await store.curves([("bare", "train_loss")], x="tokens")
    assert np.isnan(curve.x).all()
