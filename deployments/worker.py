"""Keep a worker for each pool, and let none outlive this process: `trainctl worker`.

Flow processes and trainings go on when the workers end; the next workers' reconcile attaches to
what nobody executes.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping

from blocks.providers.local.gpus import gpus, visible
from trainer.contract.own_python import own_python

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds before a worker that died is started again
HEALTHY_SECONDS = 60.0  # after so long a life the first delay counts again
ENDING_SECONDS = 20.0  # for a worker that is asked to end
LINE_BYTES = 1 << 20

Say = Callable[[str], None]


def gpu_count() -> int:
    """Return how many jobs may train here at once: one per GPU that we may use, or one."""
    return max(1, len(visible(gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))))


async def serve(pools: Mapping[str, int | None], say: Say) -> None:
    """Keep a worker for each pool until SIGTERM or SIGINT, then end them.

    Args:
        pools: how many jobs of each pool may run here at once; None for any number.
        say: takes a line of a worker's log, or about a worker.
    """
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    width = max(map(len, pools))
    keeping = [
        asyncio.create_task(_keep(pool, limit, _labelled(f"{pool:<{width}} | ", say)))
        for pool, limit in pools.items()
    ]
    waiting = asyncio.create_task(ended.wait())
    await asyncio.wait({waiting, *keeping}, return_when=asyncio.FIRST_COMPLETED)
    say("ending the workers; jobs go on")
    for task in (waiting, *keeping):
        task.cancel()
    await asyncio.gather(waiting, *keeping, return_exceptions=True)


def _labelled(label: str, say: Say) -> Say:
    return lambda line: say(f"{label}{line}")


async def _keep(pool: str, limit: int | None, say: Say) -> None:
    """Start a worker whenever there is none, at most once a minute when it dies each time."""
    delay = FIRST_DELAY
    while True:
        began = time.monotonic()
        code = await _one_life(pool, limit, say)
        delay = FIRST_DELAY if time.monotonic() - began > HEALTHY_SECONDS else delay
        say(f"the worker ended with exit code {code}; it starts again in {delay:g} s")
        await asyncio.sleep(delay)
        delay = min(2 * delay, LONGEST_DELAY)


async def _one_life(pool: str, limit: int | None, say: Say) -> int:
    """Run a worker to its end and return its exit code; when cancelled, end it.

    It has a session of its own: Ctrl-C is ours to pass on, and must not reach flow processes.
    """
    process = await asyncio.create_subprocess_exec(
        *own_python("-m", "deployments.pool_worker", pool, str(limit or 0), str(os.getpid())),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
        limit=LINE_BYTES,
    )
    relaying = asyncio.create_task(_relay(process, say))
    try:
        return await process.wait()
    finally:
        await _end(process)
        await asyncio.wait({relaying}, timeout=1)
        relaying.cancel()


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), ENDING_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _relay(process: Process, say: Say) -> None:
    """Pass on what a worker writes, line by line; of a line beyond measure its pieces are lost."""
    assert process.stdout  # noqa: S101 - it was asked for
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:
            continue
        if not line:
            return
        say(line.decode(errors="replace").rstrip())
