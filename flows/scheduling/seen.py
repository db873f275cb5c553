"""A flow run as the queue sees it, from the plain JSON of Prefect's API. Nothing here imports Prefect.

What a job asks for is read without checking the job: it was checked when it was submitted, a queue of
ten thousand is read at once, and one that is not as it should be fails where it runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from blocks.providers.gpu_names import matches
from flows.asking import Json
from flows.scheduling.labels import (
    BATCH,
    FOR,
    PREFIX,
    PROJECT,
    USER,
    Allotment,
    allotment,
    batch_limit,
    seconds,
    text,
)
from flows.scheduling.pool import HOUR, Demand, Job, PoolMachine, Stint

PRIORITY_OF_QUEUE = {"high": 80, "default": 50, "low": 20}
"""The priority of a job that names none, by its work queue."""
USUAL = 50
HERE = "local"
"""What a job names as its provider to be trained on a machine of the pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a job asks of its machine, as far as the queue minds."""

    here: bool = True
    """Whether it trains on a machine of the pool, and not on a rented one."""
    gpus: int | None = None
    exact: bool = True
    """Whether it goes on from a pause exactly where it was; a command saves when it likes."""
    processes: int = 1
    vram_gb: float = 0.0
    kinds: tuple[str, ...] = ()
    ram_gb: float = 0.0
    threads: int = 0
    disk_gb: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRun:
    """A flow run of a pool."""

    id: str
    name: str
    queue: str
    type: str
    """Prefect's type of its state, such as SCHEDULED."""
    state: str
    """The state's name."""
    message: str
    state_id: str
    is_job: bool
    """Whether it is a training. Other flows take nothing of a machine, and wait for nothing."""
    submitted: float
    """Its place in the queue."""
    priority: int
    user: str
    project: str
    wishes: Wishes
    labels: Mapping[str, Any]
    """Those of ours."""
    cap: float
    """Seconds after which the job stops by its own limit."""
    began: float | None
    ended: float | None
    ran: float
    """Seconds of work so far, without waits and pauses."""

    @property
    def allotment(self) -> Allotment | None:
        """The GPUs that it has, or had last."""
        return allotment(self.labels)

    def with_allotment(self, given: Allotment) -> SeenRun:
        """Return the run as it is once it has GPUs."""
        return replace(self, type="PENDING", labels={**self.labels, **given.labels()})


def seen(value: Json) -> SeenRun:
    """Return a run as the API writes it."""
    state = value.get("state") or {}
    parameters = value.get("parameters") or {}
    job = parameters.get("job")
    job = job if isinstance(job, dict) else None
    labels = {k: v for k, v in (value.get("labels") or {}).items() if k.startswith(PREFIX)}
    due = value.get("next_scheduled_start_time") or value.get("expected_start_time")
    given = allotment(labels)
    place = given.place if given and state.get("type") != "SCHEDULED" else seconds(due)
    queue = value.get("work_queue_name") or ""
    minutes = _number(_part(job, "limits").get("max_runtime_minutes"), math.inf)
    return SeenRun(
        id=str(value["id"]),
        name=str(value.get("name") or ""),
        queue=queue,
        type=str(state.get("type") or ""),
        state=str(state.get("name") or ""),
        message=str(state.get("message") or ""),
        state_id=str(state.get("id") or ""),
        is_job=job is not None,
        submitted=place if place is not None else seconds(value.get("created")) or 0.0,
        priority=_priority(job, queue),
        user=text(labels, USER),
        project=text(labels, PROJECT) or _text((job or {}).get("project")),
        wishes=wishes_of(job),
        labels=labels,
        cap=60 * minutes,
        began=seconds(value.get("start_time")),
        ended=seconds(value.get("end_time")),
        # With the present stretch of work; `total_run_time` is without it.
        ran=_number(value.get("estimated_run_time"), 0.0),
    )


def wishes_of(job: Any) -> Wishes:
    """Return what a job asks for; the parameters of another flow ask for nothing."""
    if not isinstance(job, dict):
        return Wishes(here=False)
    asked, providers = _part(job, "resources"), job.get("provider", HERE)
    first = providers[0] if isinstance(providers, list) and providers else providers
    gpus = asked.get("gpu_count")
    kinds = asked.get("gpu_types")
    return Wishes(
        here=first == HERE,
        exact=_part(job, "training").get("trainer", "builtin") == "builtin",
        gpus=int(_number(gpus, 1)) if gpus is not None else None,
        processes=int(_number(asked.get("cpu_processes"), 1)),
        vram_gb=_number(asked.get("min_vram_gb"), 0.0),
        kinds=tuple(map(str, kinds)) if isinstance(kinds, list) else (),
        ram_gb=_number(asked.get("min_ram_gb"), 0.0),
        threads=int(_number(asked.get("cpu_threads"), 0)),
        disk_gb=_number(asked.get("disk_gb"), 0.0),
    )


class Demands:
    """What wishes are on the machines of a pool: which kinds of GPU a part of a name means, and so on."""

    def __init__(self, machines: Sequence[PoolMachine]) -> None:
        self._kinds = sorted({gpu.kind for machine in machines for gpu in machine.gpus})
        self._has_gpus = any(machine.has_gpus for machine in machines)
        self._shares = any(machine.shares for machine in machines)
        self._known: dict[Wishes, Demand] = {}

    def of(self, wishes: Wishes) -> Demand:
        """Return what a job needs of a machine here."""
        if wishes not in self._known:
            self._known[wishes] = self._made(wishes)
        return self._known[wishes]

    def _made(self, wishes: Wishes) -> Demand:
        if not wishes.here:
            return Demand(gpus=0)
        gpus = int(self._has_gpus) if wishes.gpus is None else wishes.gpus
        threads = float(wishes.threads * wishes.processes)
        if gpus == 0:
            return Demand(
                gpus=0,
                ram_gb=wishes.ram_gb,
                threads=threads,
                disk_gb=wishes.disk_gb,
                cpu_jobs=1,
            )
        # What no GPU here is called stays as it was asked for, and is named in the reason.
        kinds = [kind for kind in self._kinds if matches(wishes.kinds, kind)]
        return Demand(
            gpus=gpus,
            vram_gb=wishes.vram_gb,
            shared=self._shares and gpus == 1 and wishes.vram_gb > 0,
            kinds=(tuple(kinds) or wishes.kinds) if wishes.kinds else (),
            ram_gb=wishes.ram_gb,
            threads=threads,
            disk_gb=wishes.disk_gb,
        )


def job_of(run: SeenRun, demand: Demand, *, left: float | None, held: str = "") -> Job:
    """Return a run as `decide` takes it.

    Args:
        run: that waits, or has GPUs.
        demand: see `Demands`.
        left: seconds that it will still run, where they were measured.
        held: why it may not start yet, whatever is free.
    """
    if left is None:
        usual = min(HOUR, run.cap)
        left = max(0.0, usual - run.ran) or usual
    return Job(
        id=run.id,
        submitted=run.submitted,
        demand=demand,
        priority=run.priority,
        user=run.user,
        project=run.project,
        seconds_left=max(1.0, left),
        ran=run.ran,
        paused_for=text(run.labels, FOR),
        held=held,
        batch=text(run.labels, BATCH),
        batch_limit=batch_limit(run.labels),
    )


def stints(runs: Iterable[SeenRun], demands: Demands) -> list[Stint]:
    """Return who had GPUs before, of runs that are over or wait again."""
    found = []
    for run in runs:
        # Pauses are left out, so the work is taken to have been done at the end of it all.
        ended = run.ended if run.ended is not None else (run.began or 0.0) + run.ran
        gpus = gpus_of(run, demands)
        if run.is_job and run.ran > 0 and gpus:
            found.append(
                Stint(
                    user=run.user,
                    project=run.project,
                    gpus=gpus,
                    began=ended - run.ran,
                    ended=ended,
                )
            )
    return found


def gpus_of(run: SeenRun, demands: Demands) -> float:
    """Return how many GPUs of the pool a run had, or would have."""
    given = run.allotment
    return len(given.gpus) if given else demands.of(run.wishes).gpus


def _priority(job: Json | None, queue: str) -> int:
    if job is None:
        return USUAL
    given = job.get("priority")
    if isinstance(given, int) and not isinstance(given, bool):
        return min(100, max(0, given))
    return PRIORITY_OF_QUEUE.get(queue, USUAL)


def _part(job: Json | None, name: str) -> Json:
    part = (job or {}).get(name)
    return part if isinstance(part, dict) else {}


def _number(value: Any, default: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return default
    return max(0.0, value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
