"""What a person sees of a pool's queue: who runs, who waits, at which place, and why."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from flows.asking import AskApi
from flows.scheduling.administration import Administration
from flows.scheduling.gathering import Gathering, Held
from flows.scheduling.labels import moment
from flows.scheduling.pool import ExplainWait, Job, Running, StartJob
from flows.scheduling.ranking import Factors
from flows.scheduling.seen import SeenRun
from flows.scheduling.snapshot import Snapshot
from trainer.contract.errors import ConfigError
from trainer.contract.words import time_taken

NO_WORKER = "no worker of the pool is online: start one with 'trainctl worker'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A job that waits."""

    job: Job
    run: SeenRun
    place: int
    reason: str
    expected: float | None
    """When it starts at the latest by the estimates, in seconds since the epoch."""
    factors: Factors
    number: float
    """By which it is sorted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A pool's queue at one moment."""

    pool: str
    snapshot: Snapshot
    waiting: tuple[Waiting, ...]

    def find(self, id: str) -> Waiting | None:
        """Return a job that waits, by its whole id."""
        return next((one for one in self.waiting if one.job.id == id), None)


async def queue_view(ask: AskApi, pool: str, held: Held) -> QueueView:
    """Read a pool, and return its queue as its worker sees it.

    Args:
        ask: asks Prefect's API.
        pool: its name.
        held: says what comes after something else.

    Raises:
        ConfigError: there is no such pool.
    """
    await check_pool(ask, pool)
    rules = await Administration(ask, pool).read()
    runs = await Gathering(ask, pool, held).runs(rules.settings)
    snapshot = Snapshot(runs, rules, time.time())
    return QueueView(pool=pool, snapshot=snapshot, waiting=tuple(_waiting(snapshot)))


async def check_pool(ask: AskApi, pool: str) -> None:
    """Refuse a pool that Prefect does not have.

    Raises:
        ConfigError: naming those that there are.
    """
    pools = [one["name"] for one in await ask("/work_pools/filter", {})]
    if pool not in pools:
        there = f"there are: {', '.join(pools)}" if pools else "there is none"
        raise ConfigError(
            f"Prefect has no work pool {pool!r}; {there}.", "Make ours with: trainctl deploy"
        )


def _waiting(snapshot: Snapshot) -> Iterator[Waiting]:
    """Yield the jobs that wait, in the order in which they are considered."""
    decided = {one.job: one for one in snapshot.decide() if isinstance(one, StartJob | ExplainWait)}
    ranking = snapshot.ranking()
    for place, job in enumerate(ranking.sort(snapshot.queue), 1):
        one = decided[job.id]
        reason = one.reason if isinstance(one, ExplainWait) else _starts(one)
        if not snapshot.rules.machines and not job.held:
            reason = NO_WORKER
        yield Waiting(
            job=job,
            run=snapshot.runs.waiting[job.id],
            place=place,
            reason=reason,
            expected=one.expected if isinstance(one, ExplainWait) else snapshot.now,
            factors=ranking.factors(job),
            number=ranking.score(job)[1],
        )


def _starts(one: StartJob) -> str:
    gpus = f", {', '.join(one.gpus)}" if one.gpus else ""
    return f"starts now on {one.machine}{gpus}"


def sentence(view: QueueView, one: Waiting) -> str:
    """Return why a job waits, and about when it starts."""
    text = f"waits as number {one.place} of {len(view.waiting)} in pool {view.pool}: {one.reason}"
    if one.expected is not None and one.expected > view.snapshot.now:
        text += f" (about {clock(one.expected)})"
    return text


def numbers(view: QueueView, one: Waiting) -> dict[str, str]:
    """Return what a job's place comes from: each factor, from 0 to 1, and what it is of."""
    factors, job = one.factors, one.job
    waited = time_taken(max(0.0, view.snapshot.now - job.submitted))
    overdue = ", longer than max_wait: it goes first" if factors.overdue else ""
    whose = f"{job.user or 'unknown user'}{f', project {job.project}' if job.project else ''}"
    return {
        "strategy": str(view.snapshot.rules.settings.strategy),
        "together": f"{one.number:.3f}",
        "priority": f"{factors.priority:.3f}  priority {job.priority}",
        "age": f"{factors.age:.3f}  waited {waited}{overdue}",
        "fairness": f"{factors.fairness:.3f}  of {whose}, by the GPUs had lately",
        "shortness": f"{factors.shortness:.3f}  {time_taken(job.seconds_left)} on "
        f"{job.demand.gpus} GPUs, estimated",
    }


def record(view: QueueView) -> dict[str, Any]:
    """Return a queue as JSON values."""
    rules = view.snapshot.rules
    return {
        "pool": view.pool,
        "strategy": str(rules.settings.strategy),
        "paused": rules.paused,
        "mistake": rules.mistake or None,
        "machines": [
            {"name": one.name, "gpus": [asdict(gpu) for gpu in one.gpus]} for one in rules.machines
        ],
        "running": [_running(one, view.snapshot.runs.active) for one in view.snapshot.running],
        "waiting": [_record(view, one) for one in view.waiting],
    }


def _running(one: Running, active: Mapping[str, SeenRun]) -> dict[str, Any]:
    run = active.get(one.job.id)
    return {
        "id": one.job.id,
        "name": run.name if run else None,
        "user": one.job.user,
        "project": one.job.project,
        "priority": one.job.priority,
        "machine": one.machine or None,
        "gpus": list(one.gpus),
        "since": moment(one.since),
        "seconds_left": round(one.job.seconds_left),
        "pausing": one.pausing,
    }


def _record(view: QueueView, one: Waiting) -> dict[str, Any]:
    job = one.job
    return {
        "id": job.id,
        "name": one.run.name,
        "place": one.place,
        "reason": one.reason,
        "expected": None if one.expected is None else moment(one.expected),
        "user": job.user,
        "project": job.project,
        "priority": job.priority,
        "queue": one.run.queue,
        "gpus": job.demand.gpus,
        "submitted": moment(job.submitted),
        "waited_seconds": round(max(0.0, view.snapshot.now - job.submitted)),
        "seconds_left": round(job.seconds_left),
        "number": round(one.number, 4),
        "factors": asdict(one.factors),
    }


def clock(at: float) -> str:
    """Return a moment on this computer's clock: the time, with the date if that is another day."""
    when = datetime.fromtimestamp(at).astimezone()
    today = datetime.now().astimezone().date()
    return f"{when:%H:%M}" if when.date() == today else f"{when:%Y-%m-%d %H:%M}"
