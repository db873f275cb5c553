"""Keep a worker for each pool running, and end them with this process: `trainctl worker`.

Trainings, and flows that have a process of their own, go on when the workers end; the next workers
attach to runs without a process.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blocks.providers.local.gpus import gpus, visible
from trainer.contract.own_python import own_python

FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds before a worker that died is started again
HEALTHY_SECONDS = 60.0  # a worker that lived longer than this is restarted after the first delay
ENDING_SECONDS = 20.0  # for a worker to end; it takes up to 10 s itself, see `pool_worker`
LINE_BYTES = 1 << 20  # the longest line; asyncio's default of 64 KiB is less than a long traceback

Say = Callable[[str], None]


def gpu_count() -> int:
    """Return how many jobs may train here at once: one per GPU that we may use, or one."""
    return max(1, len(visible(gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))))


@dataclass(frozen=True, slots=True)
class Served:
    """A pool, as its worker serves it."""

    limit: int | None
    """How many jobs of it may run here at once; None for any number."""
    in_one_process: bool = True
    """Whether one process executes all of them; else each gets one, as Prefect's own worker does it."""

    @property
    def module(self) -> str:
        """The worker's module."""
        return f"deployments.{'serve_pool' if self.in_one_process else 'pool_worker'}"


async def serve(pools: Mapping[str, Served], say: Say) -> None:
    """Keep a worker for each pool until SIGTERM or SIGINT, then end them.

    Args:
        pools: by name.
        say: takes a line of a worker's log, or about a worker.
    """
    ended = asyncio.Event()
    # SIGHUP too: a terminal that is closed must not kill the workers halfway through a start.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    keeping, waiting = (asyncio.create_task(each) for each in (keep(pools, say), ended.wait()))
    await asyncio.wait({waiting, keeping}, return_when=asyncio.FIRST_COMPLETED)
    say("ending the workers; jobs go on")
    for task in (waiting, keeping):
        task.cancel()
    await asyncio.gather(waiting, keeping, return_exceptions=True)


async def keep(pools: Mapping[str, Served], say: Say) -> None:
    """Keep a worker for each pool until this is cancelled, then end them; see `serve`."""
    width = max(map(len, pools))
    keeping = [
        asyncio.create_task(_keep(pool, served, _labelled(f"{pool:<{width}} | ", say)))
        for pool, served in pools.items()
    ]
    try:
        # A task of `keeping` ends only by failing, and then all workers end: a supervisor that
        # keeps some of its pools would look healthy.
        await asyncio.wait(keeping, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in keeping:
            task.cancel()
        await asyncio.gather(*keeping, return_exceptions=True)


def _labelled(label: str, say: Say) -> Say:
    return lambda line: say(f"{label}{line}")


async def _keep(pool: str, served: Served, say: Say) -> None:
    """Start a worker whenever none runs; at most once a minute when it dies every time."""
    delay = FIRST_DELAY
    while True:
        began = time.monotonic()
        code = await _one_life(pool, served, say)
        delay = FIRST_DELAY if time.monotonic() - began > HEALTHY_SECONDS else delay
        say(f"the worker ended with exit code {code}; it starts again in {delay:g} s")
        await asyncio.sleep(delay)
        delay = min(2 * delay, LONGEST_DELAY)


async def _one_life(pool: str, served: Served, say: Say) -> int:
    """Run a worker to its end and return its exit code; when cancelled, end it.

    It has a session of its own: Ctrl-C is ours to pass on, and must not reach flow processes.
    """
    # Our process id goes along, so that the worker can tell whether we died before it asked the
    # kernel to be killed with us. 0 stands for no limit.
    process = await asyncio.create_subprocess_exec(
        *own_python("-m", served.module, pool, str(served.limit or 0), str(os.getpid())),
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
        # A flow process may have inherited the pipe and keep it open, so its end is not awaited.
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
    """Pass on what a worker writes, line by line; a line over the limit is lost in part."""
    assert process.stdout  # noqa: S101 - it was asked for
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:  # over the limit; readline has dropped what it had read of it
            continue
        if not line:
            return
        say(line.decode(errors="replace").rstrip())
