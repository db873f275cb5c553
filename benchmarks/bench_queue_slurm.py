"""The policy of a pool against a real Slurm with backfill, on the same small trace.

    <name> <mean wait min> <95 % min> <longest h> <slowdown> <urgent min> <light> <heavy> <pauses>

The trace is one of `simulate_queue.py`: 40 jobs, four GPUs, which are CPUs to Slurm. Its times are an eighth for
both, and Slurm's clock is fast besides (controller, node and commands run under `faketime`): shorter still they
cannot be, since time limits are minutes to Slurm. Both have the estimates in whole minutes of that clock; Slurm
has them as time limits, at which nothing is ended. It orders by submission (`priority/basic`) with
`sched/backfill`. What it takes itself to start and end a job at that speed is measured on the idle cluster; the
policy's jobs hold their GPUs for as much longer, and it counts as nobody's wait. The policy lives through the trace in the simulator: `balanced`, and `fifo`, which has Slurm's order.

Needs slurmctld, slurmd, munge and faketime of Debian; about five minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from common import conclude, fail
from simulate_queue import Item, Pool, figures, ours, trace

from flows.scheduling.pool import Policy, PoolGpu, PoolMachine, Strategy
from tests.clouds import slurm
from tests.clouds.slurm import SlurmCluster

LOAD = 0.85
SHRUNK = 8  # times in the trace to those on the fast clock
MINUTE = 60.0
ALONE_JOBS = 5  # that measure what Slurm takes itself
ALONE_SECONDS = 600.0
SLOW = 36_000.0  # seconds of the fast clock: no time-out strikes because the computer is slow
HEADS = (
    "",
    "mean min",
    "95% min",
    "longest h",
    "slowdown",
    "urgent min",
    "light",
    "heavy",
    "pauses",
)
MARK = "BENCH_QUEUE_SLURM_INSIDE"


def main() -> int:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--speed", type=int, default=60, help="of Slurm's clock")
    given = parser.parse_args()
    if MARK not in os.environ:
        _inside(given.speed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and so the cluster's daemons end
    gpus = tuple(PoolGpu(uuid=f"GPU-{n}", vram_gb=80.0) for n in range(given.gpus))
    machines = [PoolMachine(name="host", gpus=gpus)]
    items = _trace(given.seed, given.jobs, given.gpus)
    own = _through_slurm(items, given.gpus, given.speed)
    found = {"slurm": figures(items, 0)}
    for strategy in (Strategy.BALANCED, Strategy.FIFO):
        policy = Policy(strategy=strategy)
        items = _trace(given.seed, given.jobs, given.gpus)
        for item in items:  # both pay it, as it keeps GPUs from others too
            item.left += own
        pool = Pool(items, ours(machines, policy), policy.half_life)
        pool.run()
        for item in items:
            item.ended -= own
        found[strategy.value] = figures(items, pool.pauses)
    print("".join(f"{head:>11}" for head in HEADS))
    for name, row in found.items():
        print(f"{name:>11}" + "".join(f"{value:11.2f}" for value in row.values()))
    print(f"Slurm itself takes {own:.0f} s of a job at this speed, which all were given")
    balanced, theirs = found[Strategy.BALANCED.value], found["slurm"]
    conclude("queue_slurm_longest_wait", balanced["longest"] / theirs["longest"], "<=", 1)
    conclude("queue_slurm_slowdown", balanced["slowdown"] / theirs["slowdown"], "<=", 1)
    return 0


def _trace(seed: int, jobs: int, gpus: int) -> list[Item]:
    """Return the trace, with estimates as both can have them."""
    step = MINUTE * SHRUNK
    items = trace(seed, jobs, gpus, LOAD)
    for item in items:
        estimate = math.ceil(item.job.seconds_left / step) * step
        item.job = dataclasses.replace(item.job, seconds_left=estimate)
    return items


def _inside(speed: int) -> None:
    """Begin anew with a fast clock, which all processes from here on share."""
    for program in ("faketime", "sbatch", "slurmctld", "slurmd", "munged"):
        if not shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
            fail(
                f"{program} is missing: apt-get install slurmctld slurmd slurm-client munge faketime"
            )
    os.environ[MARK] = "1"
    command = ["faketime", "-f", f"+0 x{speed}", sys.executable, *sys.orig_argv[1:]]
    os.execvp(command[0], command)  # noqa: S606  no shell is meant


def _through_slurm(items: Sequence[Item], cpus: int, speed: int) -> float:
    """Let Slurm live through a trace; return the seconds that it takes itself of each job."""
    slurm.UP_SECONDS = SLOW
    with tempfile.TemporaryDirectory() as folder:
        cluster = SlurmCluster(Path(folder))
        cluster.cpus = cpus
        cluster.settings = {
            "SlurmdParameters": "config_overrides",  # more CPUs than there are: jobs only sleep
            "SchedulerParameters": "bf_interval=10,sched_interval=10,defer_batch",
            "AuthInfo": f"socket={cluster.own}/munge.socket,ttl={SLOW:.0f}",
            "MessageTimeout": f"{SLOW:.0f}",
            "SlurmdTimeout": "0",
            "OverTimeLimit": "UNLIMITED",
            "MinJobAge": "99999999",
        }
        with cluster:
            taken = []
            for _ in range(ALONE_JOBS):
                number = _submit(cluster, 1, ALONE_SECONDS, ALONE_SECONDS, speed)
                submitted, ended = _ended(cluster, speed)[number]
                taken.append(ended - submitted - ALONE_SECONDS)
            own = statistics.median(taken)
            _live(cluster, items, speed, own)
    return own * SHRUNK


def _live(cluster: SlurmCluster, items: Sequence[Item], speed: int, own: float) -> None:
    """Submit every job when it is due, and note when it was submitted and has ended."""
    begin = time.time() - items[0].job.submitted / SHRUNK
    numbers = []
    for item in items:
        job = item.job
        time.sleep(max(0.0, begin + job.submitted / SHRUNK - time.time()))
        seconds, limit = item.seconds / SHRUNK, job.seconds_left / SHRUNK
        numbers.append(_submit(cluster, job.demand.gpus, seconds, limit, speed))
    times = _ended(cluster, speed)
    for item, number in zip(items, numbers, strict=True):
        submitted, ended = (moment * SHRUNK for moment in times[number])
        item.job = dataclasses.replace(item.job, submitted=submitted)
        item.ended = max(ended - own * SHRUNK, submitted + item.seconds)


def _submit(cluster: SlurmCluster, cpus: int, seconds: float, limit: float, speed: int) -> str:
    """Submit a job that sleeps, and return its number; seconds are those of the fast clock."""
    return cluster.command(
        *("sbatch", "--parsable", f"--cpus-per-task={cpus}", "--chdir=/", "--output=/dev/null"),
        f"--time={math.ceil(limit / 60)}",
        "--export=PATH",  # and so without the fast clock
        f"--wrap=exec sleep {seconds / speed:.3f}",
    ).strip()


def _ended(cluster: SlurmCluster, speed: int) -> dict[str, tuple[float, float]]:
    """Wait until all jobs have ended, and return when each was submitted and has ended, by its number."""
    while True:
        time.sleep(speed / 4)
        # Nothing at all where the controller took it for too slow, on so fast a clock.
        said = cluster.command(
            "squeue", "--noheader", "--states=all", "--format=%i %T %V %e", check=False
        )
        rows = [line.split() for line in said.splitlines()]
        if rows and all(row[1] == "COMPLETED" for row in rows):
            return {row[0]: (_seconds(row[2]), _seconds(row[3])) for row in rows}


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


if __name__ == "__main__":
    sys.exit(main())
