"""How a pool decides: its strategy, its limits and its quotas, kept in Prefect as a variable.

The variable is read again every few seconds, so a pool changes while it runs. Nothing here imports
Prefect.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from flows.scheduling.pool import HOUR, Policy, PoolGpu, PoolMachine, Quota, Spent, Strategy
from trainer.config.explain import validated
from trainer.config.settings import Settings, Text
from trainer.contract.errors import ConfigError

VARIABLE = "training_orchestrator_pool_"
UNITS = {"s": 1.0, "m": 60.0, "h": HOUR, "d": 24 * HOUR}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")


def _seconds(value: Any) -> Any:
    """Return a time such as 90s, 10m, 72h or 7d in seconds; anything else is left to pydantic."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value.strip().lower())
    if match is None:
        raise ValueError("is no time: write it in seconds, or as 90s, 10m, 72h or 7d")
    return float(match[1]) * UNITS[match[2] or "s"]


Duration = Annotated[float, BeforeValidator(_seconds)]
"""Seconds; may be written as 90s, 10m, 72h or 7d."""
Share = Annotated[float, Field(gt=0, le=1_000_000)]
YEAR = 365 * 24 * HOUR


class ProjectQuota(Settings):
    """What a project may have; what is not given is not limited."""

    gpus: int | None = Field(default=None, ge=0)
    """GPUs at once."""
    gpu_hours: float | None = Field(default=None, ge=0)
    """GPU hours within `quota_period`."""
    usd: float | None = Field(default=None, ge=0)
    """What its jobs may cost within `quota_period`, in USD."""


class PoolSettings(Settings):
    """How a pool decides which job goes first, and what its jobs may use."""

    strategy: Strategy = Strategy.BALANCED
    """fifo, priority, fair_share, shortest_first, or balanced, which weighs all of these."""
    max_concurrent_jobs: int | None = Field(default=None, ge=1)
    """How many jobs may run at once. null: as many as there is room for."""
    check_interval: Duration = Field(default=1.0, ge=0.2, le=HOUR)
    """How often the queue is looked at when nothing has happened."""
    gpus: list[int | Text] | None = None
    """The GPUs that jobs may have, by the driver's number or by UUID. null: all."""
    max_vram_per_gpu: float | None = Field(default=None, gt=0)
    """GiB of each GPU's memory that jobs may use. null: all of it."""
    max_system_ram: float | None = Field(default=None, gt=0)
    """GiB of main memory that jobs may use in all, by their resources.min_ram_gb. null: no limit."""
    max_cpu_threads: int | None = Field(default=None, ge=1)
    """CPU threads that jobs may use in all, by their resources.cpu_threads. null: no limit."""
    max_disk: float | None = Field(default=None, gt=0)
    """GiB of disk that jobs may use in all, by their resources.disk_gb. null: no limit."""
    share_gpus: bool = False
    """Whether jobs of one GPU that say resources.min_vram_gb take only that of it."""
    max_wait: Duration = Field(default=72 * HOUR, gt=0, le=YEAR)
    """How long a job waits at most before it goes ahead of all that have waited less long."""
    ageing: Duration = Field(default=24 * HOUR, gt=0, le=YEAR)
    """After how long waiting counts as much as the highest priority."""
    half_life: Duration = Field(default=24 * HOUR, gt=0, le=YEAR)
    """After how long the GPUs that somebody has had count half."""
    weights: dict[Text, Share] = Field(default_factory=dict)
    """By user or project: how large a share is its due; 1 for all that are not named."""
    preempts: bool = True
    """Whether a job may have jobs of lower priority paused for it."""
    min_run: Duration = Field(default=600.0, ge=0, le=YEAR)
    """How long a job runs at least before it is paused for another."""
    pause_time: Duration = Field(default=60.0, ge=0, le=HOUR)
    """How long a pause usually takes, until the GPUs are free."""
    quotas: dict[Text, ProjectQuota] = Field(default_factory=dict)
    """By project; one that is not named is not limited."""
    quota_period: Duration = Field(default=30 * 24 * HOUR, gt=0, le=YEAR)
    """The time back from now for which GPU hours and USD are counted."""

    def policy(self, spent: Mapping[str, Spent], *, limit: int | None = None) -> Policy:
        """Return what `decide` goes by.

        Args:
            spent: what each project has had within the period of its quota.
            limit: how many jobs may run at once by other rules, such as the work pool's own.
        """
        limits = [each for each in (self.max_concurrent_jobs, limit) if each is not None]
        return Policy(
            strategy=self.strategy,
            max_wait=self.max_wait,
            ageing=self.ageing,
            half_life=self.half_life,
            weights=self.weights,
            preempts=self.preempts,
            min_run=self.min_run,
            pause_seconds=self.pause_time,
            max_jobs=min(limits, default=None),
            quotas={
                name: Quota(gpus=quota.gpus, gpu_hours=quota.gpu_hours, usd=quota.usd)
                for name, quota in self.quotas.items()
            },
            spent=spent,
        )

    @property
    def dear(self) -> set[str]:
        """The projects whose jobs may cost only so much."""
        return {name for name, quota in self.quotas.items() if quota.usd is not None}

    def limited(self, machine: PoolMachine) -> PoolMachine:
        """Return what jobs may use of a machine."""
        return dataclasses.replace(
            machine,
            gpus=tuple(self._limited(gpu) for gpu in machine.gpus if self._may_use(gpu)),
            ram_gb=min(machine.ram_gb, self.max_system_ram or math.inf),
            threads=min(machine.threads, self.max_cpu_threads or math.inf),
            disk_gb=min(machine.disk_gb, self.max_disk or math.inf),
            shares=self.share_gpus,
            total=max(machine.total, len(machine.gpus)),
        )

    def absent(self, machines: Iterable[PoolMachine]) -> list[int | str]:
        """Return what `gpus` names and none of the machines has."""
        there = [gpu for machine in machines for gpu in machine.gpus]
        return [one for one in self.gpus or [] if not any(_is_meant(one, gpu) for gpu in there)]

    def _may_use(self, gpu: PoolGpu) -> bool:
        return self.gpus is None or any(_is_meant(one, gpu) for one in self.gpus)

    def _limited(self, gpu: PoolGpu) -> PoolGpu:
        return dataclasses.replace(gpu, vram_gb=min(gpu.vram_gb, self.max_vram_per_gpu or math.inf))


def _is_meant(wanted: int | str, gpu: PoolGpu) -> bool:
    if isinstance(wanted, int):
        return wanted == gpu.index
    return wanted in {gpu.uuid, str(gpu.index)}


def variable_of(pool: str) -> str:
    """Return the name of the variable in which a pool has its settings."""
    return VARIABLE + slug(pool)


def slug(name: str) -> str:
    """Return a name as variables of Prefect may be called: small letters, digits, - and _."""
    if re.fullmatch(r"[a-z0-9_-]{1,100}", name):
        return name
    # The number keeps two names apart that differ only in what must go.
    return f"{re.sub(r'[^a-z0-9_-]+', '-', name.lower())[:100]}-{zlib.crc32(name.encode()):08x}"


def settings_of(value: Any, pool: str) -> PoolSettings:
    """Return the settings in a variable's value; None is a pool that was never set.

    Raises:
        ConfigError: naming the pool, and for every problem the field, the value and the remedy.
    """
    if value is None:
        return PoolSettings()
    remedy = f"Set it by: trainctl pool set {pool} KEY=VALUE; KEY= alone is the default again."
    return validated(PoolSettings, value, f"settings of pool {pool}", remedy)


def changed(value: Any, changes: Mapping[str, Any], pool: str) -> dict[str, Any]:
    """Return a variable's value after changes, with nothing in it that is as it would be anyway.

    Args:
        value: the variable's; None if there is none.
        changes: by names with dots, such as quotas.vision.gpus; a value of None is the default again.
        pool: its name.

    Raises:
        ConfigError: the settings would not be valid; nothing has changed.
    """
    new: dict[str, Any] = _copied(value if isinstance(value, dict) else {})
    for name, given in changes.items():
        *path, last = name.split(".")
        inner = new
        for part in path:
            below = inner.setdefault(part, {})
            if not isinstance(below, dict):
                raise ConfigError(
                    f"{name}: {part} is one value and has no {last}.", f"Set {part} instead."
                )
            inner = below
        if given is None:
            inner.pop(last, None)
        else:
            inner[last] = given
    checked = settings_of(new, pool)
    return checked.model_dump(mode="json", exclude_defaults=True)


def assignments(given: Iterable[str]) -> dict[str, Any]:
    """Return changes from texts such as strategy=fifo, gpus=[0, 1] and max_wait=, the default again.

    Raises:
        ConfigError: one has no name, or no =.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not all(name.split(".")):
            raise ConfigError(
                f"{text!r}: is not KEY=VALUE.", "Write, for example, strategy=fair_share."
            )
        found[name] = _value(value.strip())
    return found


def _value(text: str) -> Any:
    """Return a number, true, a list and so on as JSON has them; anything else is a text."""
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _copied(value: Any) -> Any:
    return (
        {name: _copied(each) for name, each in value.items()} if isinstance(value, dict) else value
    )
