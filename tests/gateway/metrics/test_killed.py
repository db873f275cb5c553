"""What was acknowledged is on disk, whatever becomes of the process."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

WRITER = """
import asyncio, sys
from sqlalchemy.ext.asyncio import create_async_engine
from gateway.metrics.store import MetricsStore

async def main():
    store = MetricsStore(create_async_engine(sys.argv[1]))
    async def job(name):
        step = 0
        while True:
            await store.append(name, [{"step": n, "train_loss": float(n)} for n in range(step, step + 7)])
            step += 7
            print(name, step, flush=True)
    await asyncio.gather(job("a"), job("b"), job("c"))

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [40, pytest.param(131, marks=pytest.mark.thorough)])
async def test_a_killed_writer_loses_nothing_that_it_acknowledged(store, database, after):
    """Kill it between two answers, and in the midst of a commit, as it happens."""
    told: dict[str, int] = {}
    url = database.render_as_string(hide_password=False)
    with subprocess.Popen(  # noqa: ASYNC220 - nothing else runs here
        [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True
    ) as writer:
        for _ in range(after):
            name, step = writer.stdout.readline().split()
            told[name] = int(step)
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout:
            if line.endswith("\n"):
                name, step = line.split()
                told[name] = int(step)

    assert len(told) == 3
    for name, step in told.items():
        steps = [r["step"] for r in await store.records(name)]
        assert steps[:step] == list(range(step))
        assert steps == list(range(len(steps)))
    # And the next one goes on where that one was.
    await store.append("a", [{"step": 10**6, "train_loss": 1.0}])
    assert (await store.records("a"))[-1]["step"] == 10**6
