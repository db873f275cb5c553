"""What a decision is made from: machines with GPUs, jobs that wait, jobs that run, and the past.

Plain values. Times are seconds on one clock, whichever; memory is in GiB.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from trainer.contract.errors import ConfigError

HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolGpu:
    """A GPU that jobs of the pool may have."""

    uuid: str
    vram_gb: float
    """What jobs may use of its memory."""
    kind: str = ""
    index: int | None = None
    """The driver's number for it."""
    island: str = ""
    """GPUs of one island reach each other by a fast link, such as NVLink or one NUMA node."""
    taken: str = ""
    """Why no further job can have it now, such as a process of somebody else's, or an error of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolMachine:
    """A computer of the pool, with what jobs may use of it."""

    name: str
    gpus: tuple[PoolGpu, ...]
    ram_gb: float = math.inf
    threads: float = math.inf
    disk_gb: float = math.inf
    cpu_jobs: float = math.inf
    """How many jobs without a GPU may train on it at once."""
    shares: bool = False
    """Whether jobs that ask for a part of a GPU's memory may share a GPU."""
    total: int = 0
    """How many GPUs it has, if that is more than jobs may have."""

    @property
    def has_gpus(self) -> bool:
        """Whether it has GPUs at all: then a job that does not say otherwise takes one."""
        return bool(self.gpus) or self.total > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a job needs, all of it at once and on one machine."""

    gpus: int = 1
    vram_gb: float = 0.0
    """Of each GPU."""
    shared: bool = False
    """Whether it takes only that memory of its GPU, and leaves the rest to others."""
    kinds: tuple[str, ...] = ()
    """Any of these; empty: any."""
    ram_gb: float = 0.0
    threads: float = 0.0
    disk_gb: float = 0.0
    cpu_jobs: int = 0
    """1 for a job that trains on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job that waits or runs."""

    id: str
    submitted: float
    """Its place in the queue, which it keeps when it is paused for another."""
    demand: Demand = field(default_factory=Demand)
    priority: int = 50
    """0 to 100; more goes first."""
    user: str = ""
    project: str = ""
    seconds_left: float = HOUR
    """How long it will still run: measured, as long as one of its name took, or else a guess."""
    ran: float = 0.0
    """Seconds of work so far, which is no waiting."""
    paused_for: str = ""
    """The id of the job for which it was paused and waits again; it goes after that one."""
    held: str = ""
    """Why it may not start yet, whatever is free, such as a job that it comes after."""
    batch: str = ""
    batch_limit: int | None = None
    """How many jobs of its batch may run at once; None: any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A job that has GPUs."""

    job: Job
    machine: str
    gpus: tuple[str, ...]
    """UUIDs."""
    since: float
    """When it got them."""
    can_pause: bool = True
    pausing: bool = False
    """Whether it has been asked to pause, and will let go of them soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stint:
    """GPUs that a user has had for a time."""

    user: str
    project: str
    gpus: float
    began: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What a project may have; None: as much as there is."""

    gpus: int | None = None
    """At once."""
    gpu_hours: float | None = None
    usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a project has had of its quota so far."""

    gpu_hours: float = 0.0
    usd: float = 0.0


class Strategy(StrEnum):
    """Who goes first."""

    FIFO = "fifo"
    PRIORITY = "priority"
    FAIR_SHARE = "fair_share"
    SHORTEST_FIRST = "shortest_first"
    BALANCED = "balanced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a pool decides; it may change while the pool runs."""

    strategy: Strategy = Strategy.BALANCED
    max_wait: float = 72 * HOUR
    """Seconds after which a job goes before all that have waited less long."""
    ageing: float = 24 * HOUR
    """Seconds after which waiting counts as much as priority can."""
    half_life: float = 24 * HOUR
    """Seconds after which GPUs that a user has had count half."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """By user or project: to how large a share it is entitled, where others have 1."""
    preempts: bool = True
    """Whether a job may have others of lower priority paused."""
    min_run: float = 600.0
    """Seconds that a job runs at least before it is paused for another."""
    pause_seconds: float = 60.0
    """How long a pause takes until the GPUs are free."""
    max_jobs: int | None = None
    """How many may run at once."""
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    """By project."""
    spent: Mapping[str, Spent] = field(default_factory=dict)
    """By project."""

    def __post_init__(self) -> None:
        """Refuse what would be divided by.

        Raises:
            ConfigError: naming the field and its value.
        """
        divisors = {"ageing": self.ageing, "half_life": self.half_life}
        divisors |= {f"weights: {name}": weight for name, weight in self.weights.items()}
        for name, value in divisors.items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} = {value:g}: must be above 0.", "Correct it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartJob:
    """StartJob a job now, on these GPUs."""

    job: str
    machine: str
    gpus: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseJob:
    """PauseJob a running job for one that waits; it keeps its place in the queue."""

    job: str
    whom: str
    """The job that waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainWait:
    """Why a job does not start now."""

    job: str
    place: int
    """In the order in which jobs are considered, from 1."""
    reason: str
    expected: float | None = None
    """When it will start at the latest by the estimates, where that is known."""


Decision = StartJob | PauseJob | ExplainWait
