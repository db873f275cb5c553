"""The machines of a pool, as their workers announce them in Prefect: a variable for each computer.

So whoever submits or looks from elsewhere knows what there is. Nothing here imports Prefect, but to write.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flows.asking import AskApi, Json
from flows.scheduling.labels import moment, seconds
from flows.scheduling.pool import PoolGpu, PoolMachine
from flows.scheduling.settings import slug

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

VARIABLE = "training_orchestrator_machine_"
WRONG_SECONDS = 5.0
EVERY_SECONDS = 30.0  # at least so often while its worker lives
FRESH_SECONDS = 120.0  # a machine announced longer ago has no worker now
MOST = 4500  # characters of a machine, of the 5000 that a variable holds
KNOWN_SECONDS = 7 * 86400.0  # but it is still one of the pool's


class Announcer:
    """Announces this computer for one pool."""

    def __init__(
        self, client: PrefectClient, pool: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._client = client
        self._pool = pool
        self._clock = clock
        self._said: PoolMachine | None = None
        self._at = -math.inf
        self._ahead = 0.0

    def now(self) -> float:
        """Return the time on the clock of Prefect's server, in seconds since the epoch.

        Runs have their times from there, and ours may be wrong, or be set.
        """
        return self._clock() + self._ahead

    async def announce(self, machine: PoolMachine) -> None:
        """Write what there is, where that is new, or was written a while ago."""
        from flows.variables import write_variable

        if machine == self._said and time.monotonic() - self._at < EVERY_SECONDS:
            return
        name = f"{VARIABLE}{slug(self._pool)}_{slug(machine.name)}"
        began = self._clock()
        value = {"pool": self._pool, "at": moment(self.now()), **_packed(machine)}
        await write_variable(self._client, name, value)
        self._said, self._at = machine, time.monotonic()
        ended = self._clock()
        written = await self._client.read_variable_by_name(name)
        if written is not None and written.updated is not None:
            at = written.updated.timestamp()
            # It was written while we waited; only what is outside of that is a difference of clocks.
            self._ahead = 0.0
            if not began - WRONG_SECONDS <= at <= ended + WRONG_SECONDS:
                self._ahead = at - began


async def announced(ask: AskApi, pool: str, *, within: float, now: float) -> list[PoolMachine]:
    """Return the machines of a pool that were announced within so many seconds."""
    body = {"variables": {"name": {"like_": f"{VARIABLE}{slug(pool)}_"}}, "limit": 200}
    found = []
    for variable in await ask("/variables/filter", body):
        value = variable.get("value")
        machine = _unpacked(value) if isinstance(value, dict) else None
        at = seconds(value.get("at")) if machine else None
        # The beginning of a name may be that of another pool.
        if machine and value["pool"] == pool and at is not None and now - at <= within:
            found.append(machine)
    return found


def _packed(machine: PoolMachine) -> Json:
    """Return a machine in few characters: a variable holds 5000."""
    for kept in (24, 0):  # characters of why a GPU is taken
        value = _in_short(machine, kept)
        if len(json.dumps(value)) <= MOST:
            return value
    # Others know of fewer then; its own worker knows all.
    fewer = dataclasses.replace(machine, gpus=machine.gpus[: len(machine.gpus) // 2])
    return _packed(dataclasses.replace(fewer, total=max(machine.total, len(machine.gpus))))


def _in_short(machine: PoolMachine, kept: int) -> Json:
    kinds = sorted({gpu.kind for gpu in machine.gpus})
    most = {"ram_gb": machine.ram_gb, "threads": machine.threads, "disk_gb": machine.disk_gb}
    most["cpu_jobs"] = machine.cpu_jobs
    return {
        "name": machine.name,
        "kinds": kinds,
        "total": machine.total,
        "gpus": [
            [
                *(gpu.uuid, kinds.index(gpu.kind), round(gpu.vram_gb, 2), gpu.index, gpu.island),
                gpu.taken[:kept],
            ]
            for gpu in machine.gpus
        ],
        **{name: round(value, 1) for name, value in most.items() if math.isfinite(value)},
    }


def _unpacked(value: Json) -> PoolMachine | None:
    """Return the machine; None where somebody has put something else into the variable."""
    try:
        gpus = tuple(
            PoolGpu(
                uuid=str(uuid),
                vram_gb=float(vram),
                kind=str(value["kinds"][kind]),
                index=index,
                island=str(island),
                taken=str(taken),
            )
            for uuid, kind, vram, index, island, taken in value["gpus"]
        )
        most: dict[str, Any] = {
            name: float(value[name])
            for name in ("ram_gb", "threads", "disk_gb", "cpu_jobs")
            if name in value
        }
        return PoolMachine(name=str(value["name"]), gpus=gpus, total=int(value["total"]), **most)
    except (KeyError, TypeError, ValueError, IndexError):
        return None
