"""Simulate queue policies on a small pool, against greedy first-come-first-served, which peers ship.

    <policy> <mean wait min> <95 % min> <longest h> <slowdown> <urgent min> <light> <heavy> <pauses>

A trace is random and the same for every policy: log-normal run times with a median of 20 minutes, 1, 2, 4
or 8 GPUs, five users of whom one submits half, estimates that are off by a quarter. Slowdown: time from
submit to end, over the run time (over ten minutes at least). The policy is `flows.scheduling.policy`,
asked at every event, as a worker asks it.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common import conclude

from flows.scheduling.policy import decide
from flows.scheduling.pool import (
    HOUR,
    Demand,
    Job,
    PauseJob,
    Policy,
    PoolGpu,
    PoolMachine,
    Running,
    StartJob,
    Stint,
    Strategy,
)

USERS = {"a": 50, "b": 20, "c": 15, "d": 10, "e": 5}
SIZES = {1: 70, 2: 15, 4: 10, 8: 5}
PRIORITIES = {20: 30, 50: 60, 80: 10}
MEDIAN_SECONDS = 1200.0
SPREAD = 1.6
MISTAKE = 0.25  # of estimates
PAUSE_SECONDS = 60.0  # what a pause costs the one that is paused
FORGOTTEN = 6  # half-lives after which a stint counts for nothing


@dataclass
class Item:
    """A job of a trace."""

    job: Job
    seconds: float
    left: float
    ended: float = 0.0
    started: float = 0.0
    version: int = 0
    """Changes when it is paused, so that its end that was planned is passed over."""


def trace(seed: int, count: int, gpus: int, load: float) -> list[Item]:
    """Return jobs in the order of their submission, which keep a pool busy to a share of its time."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    drawn = []
    for _ in range(count):
        size = min(gpus, draw.choices(list(SIZES), list(SIZES.values()))[0])
        seconds = math.exp(draw.gauss(math.log(MEDIAN_SECONDS), SPREAD))
        seconds = min(48 * HOUR, max(60.0, seconds))
        estimate = seconds * math.exp(draw.gauss(0, MISTAKE))
        priority = draw.choices(list(PRIORITIES), list(PRIORITIES.values()))[0]
        user = draw.choices(list(USERS), list(USERS.values()))[0]
        drawn.append((size, seconds, estimate, priority, user))
    span = sum(size * seconds for size, seconds, *_ in drawn) / (gpus * load)
    items = [
        Item(
            Job(
                id=f"{number:05}",
                submitted=draw.random() * span,
                demand=Demand(gpus=size),
                priority=priority,
                user=user,
                seconds_left=estimate,
            ),
            seconds,
            seconds,
        )
        for number, (size, seconds, estimate, priority, user) in enumerate(drawn)
    ]
    return sorted(items, key=lambda item: item.job.submitted)


Chooser = Callable[[list[Job], list[Running], list[Stint], float], list[StartJob | PauseJob]]


class Pool:
    """A pool in simulated time."""

    def __init__(self, items: Sequence[Item], choose: Chooser, half_life: float) -> None:
        self._items = {item.job.id: item for item in items}
        self._choose = choose
        self._forget = FORGOTTEN * half_life
        self._queue: dict[str, Job] = {}
        self._running: dict[str, Running] = {}
        self._history: list[Stint] = []
        self._ends: list[tuple[float, str, int]] = []
        self.pauses = 0

    def run(self) -> None:
        """Live through all events."""
        coming = sorted(self._items.values(), key=lambda item: -item.job.submitted)
        while coming or self._ends:
            if self._ends and (not coming or self._ends[0][0] <= coming[-1].job.submitted):
                now, id, version = heapq.heappop(self._ends)
                if version != self._items[id].version:
                    continue
                self._leave(id, now)
                self._items[id].ended = now
            else:
                item = coming.pop()
                now = item.job.submitted
                self._queue[item.job.id] = item.job
            self._decide(now)

    def _decide(self, now: float) -> None:
        # A pause frees its GPUs at once here, and costs the one that is paused: as in the figures
        # that this is compared with.
        for _ in range(3):
            self._history = [one for one in self._history if one.ended > now - self._forget]
            done = self._choose(
                list(self._queue.values()), list(self._now(now)), self._history, now
            )
            for one in done:
                if isinstance(one, StartJob):
                    self._start(one, now)
            paused = [one for one in done if isinstance(one, PauseJob)]
            for each in paused:
                self._pause(each.job, now)
            if not paused:
                return

    def _now(self, now: float) -> Sequence[Running]:
        """Return what runs, with what each has left by its estimate."""
        return [
            dataclasses.replace(
                one,
                job=dataclasses.replace(
                    one.job, seconds_left=max(1.0, one.since + one.job.seconds_left - now)
                ),
            )
            for one in self._running.values()
        ]

    def _start(self, start: StartJob, now: float) -> None:
        job, item = self._queue.pop(start.job), self._items[start.job]
        self._running[job.id] = Running(job=job, machine=start.machine, gpus=start.gpus, since=now)
        item.started = now
        heapq.heappush(self._ends, (now + item.left, job.id, item.version))

    def _leave(self, id: str, now: float) -> Running:
        running = self._running.pop(id)
        job = running.job
        self._history.append(
            Stint(
                user=job.user,
                project=job.project,
                gpus=job.demand.gpus,
                began=running.since,
                ended=now,
            )
        )
        return running

    def _pause(self, id: str, now: float) -> None:
        self.pauses += 1
        running, item = self._leave(id, now), self._items[id]
        ran = now - running.since
        item.left = max(1.0, item.left - ran) + PAUSE_SECONDS
        item.version += 1
        left = max(1.0, running.job.seconds_left - ran) + PAUSE_SECONDS
        item.job = self._queue[id] = dataclasses.replace(running.job, seconds_left=left)


def ours(machines: Sequence[PoolMachine], policy: Policy) -> Chooser:
    """Return the policy of the product."""

    def choose(
        queue: list[Job], running: list[Running], history: list[Stint], now: float
    ) -> list[StartJob | PauseJob]:
        made = decide(queue, machines, running, history, now, policy)
        return [one for one in made if isinstance(one, StartJob | PauseJob)]

    return choose


def greedy(machines: Sequence[PoolMachine]) -> Chooser:
    """Return first come, first served, where whatever fits goes before what does not."""
    every = {gpu.uuid for machine in machines for gpu in machine.gpus}

    def choose(
        queue: list[Job], running: list[Running], history: list[Stint], now: float
    ) -> list[StartJob | PauseJob]:
        free = sorted(every - {uuid for one in running for uuid in one.gpus})
        starts: list[StartJob | PauseJob] = []
        for job in sorted(queue, key=lambda job: job.submitted):
            count = job.demand.gpus
            if count <= len(free):
                starts.append(
                    StartJob(job=job.id, machine=machines[0].name, gpus=tuple(free[:count]))
                )
                free = free[count:]
        return starts

    return choose


def figures(items: Sequence[Item], pauses: int) -> dict[str, float]:
    """Return what came of a trace."""
    waits = [item.ended - item.job.submitted - item.seconds for item in items]

    def slowdown(chosen: Sequence[Item]) -> float:
        return statistics.mean(
            max(1.0, (item.ended - item.job.submitted) / max(item.seconds, 600.0))
            for item in chosen
        )

    urgent = [
        wait
        for wait, item in zip(waits, items, strict=True)
        if item.job.priority == max(PRIORITIES)
    ]
    return {
        "mean": statistics.mean(waits) / 60,
        "p95": sorted(waits)[int(0.95 * len(waits))] / 60,
        "longest": max(waits) / HOUR,
        "slowdown": slowdown(items),
        "urgent": statistics.mean(urgent) / 60,
        "light": slowdown([item for item in items if item.job.user == "e"]),
        "heavy": slowdown([item for item in items if item.job.user == "a"]),
        "pauses": pauses,
    }


def main() -> int:
    """Print the table and the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--traces", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=600)
    parser.add_argument("--load", type=float, default=0.85)
    parser.add_argument("--gpus", type=int, default=8)
    given = parser.parse_args()
    gpus = tuple(PoolGpu(uuid=f"GPU-{n}", vram_gb=80.0) for n in range(given.gpus))
    machines = [PoolMachine(name="host", gpus=gpus)]
    policies: dict[str, tuple[Chooser, float]] = {"fifo, greedy": (greedy(machines), HOUR)}
    for strategy in Strategy:
        policy = Policy(strategy=strategy)
        policies[strategy.value] = ours(machines, policy), policy.half_life
    print(
        f"{'policy':16} {'mean min':>9} {'95% min':>8} {'longest h':>9} {'slowdown':>8} "
        f"{'urgent min':>10} {'light':>6} {'heavy':>6} {'pauses':>7}"
    )
    means: dict[str, dict[str, float]] = {}
    for name, (choose, half_life) in policies.items():
        rows = []
        for seed in range(given.traces):
            items = trace(seed, given.jobs, given.gpus, given.load)
            pool = Pool(items, choose, half_life)
            pool.run()
            rows.append(figures(items, pool.pauses))
        mean = means[name] = {key: statistics.mean(row[key] for row in rows) for key in rows[0]}
        print(
            f"{name:16} {mean['mean']:9.0f} {mean['p95']:8.0f} {mean['longest']:9.1f} "
            f"{mean['slowdown']:8.2f} {mean['urgent']:10.0f} {mean['light']:6.2f} "
            f"{mean['heavy']:6.2f} {mean['pauses']:7.0f}",
            flush=True,
        )
    base, balanced = means["fifo, greedy"], means[Strategy.BALANCED.value]
    conclude("queue_slowdown", balanced["slowdown"] / base["slowdown"], "<=", 0.5)
    conclude("queue_longest_wait", balanced["longest"] / base["longest"], "<=", 1)
    conclude("queue_light_user", balanced["light"] / balanced["heavy"], "<=", 0.6)
    conclude("queue_decision", _decision_seconds(machines), "<=", 0.1)
    return 0


def _decision_seconds(machines: Sequence[PoolMachine]) -> float:
    """Return the CPU seconds of one decision about 10,000 jobs that wait."""
    queue = [
        dataclasses.replace(item.job, submitted=-item.job.submitted)
        for item in trace(0, 10_000, 8, 1.0)
    ]
    running = [
        Running(
            job=Job(id=gpu.uuid, submitted=-HOUR, user="a", priority=90),
            machine=machines[0].name,
            gpus=(gpu.uuid,),
            since=-HOUR,
        )
        for gpu in machines[0].gpus[:-1]
    ]
    times = []
    for _ in range(5):
        began = time.process_time()
        decide(queue, machines, running, [], 0.0, Policy())
        times.append(time.process_time() - began)
    return min(times)


if __name__ == "__main__":
    sys.exit(main())
