"""Files of runs, followed into the store while they grow."""

from __future__ import annotations

import asyncio
import json
import uuid

import pytest

from flows.run_folder import RunFolder
from gateway.metrics.following import Follower
from tests.waiting import until


def lines(*steps, **more):
    return "".join(json.dumps({"step": step, "train_loss": 1.0, **more}) + "\n" for step in steps)


@pytest.fixture
def run():
    return RunFolder(uuid.uuid4())


@pytest.fixture
async def follower(store):
    made = Follower(store)
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.wait({task})


async def test_a_file_is_followed_in_whole_lines(store, follower, run):
    heard = []
    store.listen(lambda job, records: heard.extend(r["step"] for r in records))
    follower.watch(run.run_id)
    with run.metrics.open("a") as stream:
        stream.write(lines(1, 2) + '{"step": 3, "train')
        stream.flush()
        await until(lambda: heard == [1, 2])
        stream.write('_loss": 0.5}\n')
        stream.flush()
        await until(lambda: heard == [1, 2, 3])

    assert (await store.records(run.run_id))[-1] == {"step": 3, "train_loss": 0.5}


async def test_two_replicas_and_a_restart_take_each_byte_once(store, engine, run):
    run.metrics.write_text(lines(*range(300)))
    heard = []
    store.listen(lambda job, records: heard.extend(r["step"] for r in records))
    one, two = Follower(store), Follower(store)

    await asyncio.gather(one.scan(), two.scan())
    with run.metrics.open("a") as stream:
        stream.write(lines(300, 301))
    await two.scan()
    await one.scan()
    await Follower(store).scan()

    assert heard == list(range(302))
    assert len(await store.records(run.run_id)) == 302


async def test_a_file_that_was_put_back_is_read_anew(store, run):
    follower = Follower(store)
    run.metrics.write_text(lines(*range(50), old=1))
    await follower.scan()

    run.metrics.write_text(lines(1, 2))
    await follower.scan()

    assert [r["step"] for r in await store.records(run.run_id)] == [1, 2]


async def test_a_run_that_was_removed_keeps_its_curves(store, run):
    follower = Follower(store)
    run.metrics.write_text(lines(1, 2))
    await follower.scan()

    run.metrics.unlink()
    await follower.scan()
    follower.watch(run.run_id)
    await follower.look()

    assert len(await store.records(run.run_id)) == 2


async def test_what_is_older_than_the_retention_is_not_taken_up(store, run):
    run.metrics.write_text(lines(1))
    old = 1_700_000_000
    __import__("os").utime(run.metrics, (old, old))

    await Follower(store, retention_days=7).scan()
    assert await store.records(run.run_id) == []
    await Follower(store).scan()
    assert len(await store.records(run.run_id)) == 1
