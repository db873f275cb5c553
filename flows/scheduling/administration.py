"""What people set for a pool: its settings, and what Prefect has of work pools and their queues."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote

from flows.asking import AskApi, Json
from flows.scheduling.announced import FRESH_SECONDS, announced
from flows.scheduling.pool import PoolMachine
from flows.scheduling.settings import PoolSettings, settings_of, variable_of
from trainer.contract.errors import ConfigError

AGAIN_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkQueue:
    """A work queue of Prefect."""

    paused: bool = False
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a pool goes by at one moment."""

    settings: PoolSettings = field(default_factory=PoolSettings)
    machines: tuple[PoolMachine, ...] = ()
    """With what jobs may use of each."""
    paused: bool = False
    limit: int | None = None
    """Of the work pool."""
    queues: Mapping[str, WorkQueue] = field(default_factory=dict)
    mistake: str = ""
    """What is wrong with the settings that somebody wrote; those before are in force."""

    def beside(self, here: PoolMachine) -> Rules:
        """Return the rules with a machine as its own worker sees it now."""
        others = [machine for machine in self.machines if machine.name != here.name]
        return replace(self, machines=(self.settings.limited(here), *others))


class Administration:
    """The rules of one pool, read again every few seconds."""

    def __init__(self, ask: AskApi, pool: str, clock: Callable[[], float] = time.time) -> None:
        self._ask = ask
        self._pool = pool
        self._clock = clock
        self._rules = Rules()
        self._again = -math.inf

    @property
    def settings(self) -> PoolSettings:
        """Those in force."""
        return self._rules.settings

    async def read(self) -> Rules:
        """Return the rules, with the machines as they were announced."""
        if time.monotonic() >= self._again:
            self._rules = await self._read()
            self._again = time.monotonic() + AGAIN_SECONDS
        return self._rules

    async def _read(self) -> Rules:
        path = f"/work_pools/{quote(self._pool)}"
        variables = {"variables": {"name": {"any_": [variable_of(self._pool)]}}}
        pool, queues, kept, machines = await asyncio.gather(
            self._ask(path, None),
            self._ask(f"{path}/queues/filter", {}),
            self._ask("/variables/filter", variables),
            announced(self._ask, self._pool, within=FRESH_SECONDS, now=self._clock()),
        )
        settings, mistake = self._settings(kept)
        return Rules(
            settings=settings,
            machines=tuple(settings.limited(machine) for machine in machines),
            paused=bool(pool["is_paused"]),
            limit=pool["concurrency_limit"],
            queues={
                one["name"]: WorkQueue(paused=one["is_paused"], limit=one["concurrency_limit"])
                for one in queues
            },
            mistake=mistake,
        )

    def _settings(self, kept: list[Json]) -> tuple[PoolSettings, str]:
        try:
            value = kept[0]["value"] if kept else None
            return settings_of(value, self._pool), ""
        except ConfigError as error:
            # Somebody has written it in Prefect's UI. A queue that stops would be the worse answer.
            return self._rules.settings, str(error)
