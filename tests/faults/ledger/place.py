"""A machine as a process of ours finds it: it answers while it is on, and ends itself with its lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blocks.machines.disk import Room
from blocks.models import Instance
from blocks.workplaces.base import (
    CommandResult,
    Lease,
    Log,
    Needed,
    Parcel,
    Ready,
    Transfer,
    Wanted,
    Workplace,
)
from tests.clouds.cloud import Cloud
from tests.clouds.rented import Rented
from trainer.contract.errors import ConnectionLost

ANSWER_SECONDS = 0.05
FOLLOW_SECONDS = 5.0


class BareMachine(Workplace):
    """A place where nothing is written, and a lease runs."""

    def __init__(self, cloud: Cloud, instance: Instance) -> None:
        self._cloud, self._id = cloud, instance.id
        self.folder = instance.workspace

    async def _answers(self) -> Rented:
        await asyncio.sleep(ANSWER_SECONDS)
        rented = self._cloud.account.get(self._id)
        if rented is None or rented.started is None or "off" in rented.facts or rented.ended:
            raise ConnectionLost(f"{self._id} does not answer.")
        return rented

    async def ready(self, wanted: Wanted, lease: Lease) -> Ready:
        del wanted
        await self.renew(lease)
        return Ready(jobs="/jobs", gpus=(), disk_free_gb=1000.0)

    async def greet(self) -> None:
        await self._answers()

    async def renew(self, lease: Lease) -> None:
        (await self._answers()).facts["lease"] = self._now() + lease.whole_seconds

    async def vacate(self, seconds: float) -> None:
        (await self._answers()).facts["lease"] = self._now() + seconds

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def close(self) -> None:
        """Let go."""

    async def install(self, needed: Needed, log: Log) -> str:
        raise NotImplementedError

    async def run_lines(self, lines: Sequence[str], env: Mapping[str, str], log: Log) -> None:
        raise NotImplementedError

    async def bring(self, parcel: Parcel, log: Log) -> str:
        raise NotImplementedError

    async def start(self, python: str, env: Mapping[str, str]) -> bool:
        raise NotImplementedError

    async def examine(self, python: str) -> dict[str, Any]:
        raise NotImplementedError

    async def call(self, python: str, env: Mapping[str, str], *words: str) -> CommandResult:
        raise NotImplementedError

    async def read(self, name: str) -> bytes | None:
        await self._answers()
        return None

    async def replace(self, name: str, content: bytes) -> None:
        await self._answers()

    async def listing(self, name: str) -> list[str]:
        await self._answers()
        return []

    async def size(self, name: str) -> int:
        await self._answers()
        return 0

    async def room(self) -> Room:
        raise NotImplementedError

    async def remove(self, names: Sequence[str]) -> None:
        await self._answers()

    async def begin(self, name: str, size: int) -> None:
        raise NotImplementedError

    async def put(self, local: Path, name: str) -> Transfer:
        raise NotImplementedError

    async def fetch(self, name: str, local: Path, *, limit: int | None = None) -> Transfer:
        raise NotImplementedError

    async def follow(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield nothing, for as long as it answers."""
        while True:
            await self._answers()
            await asyncio.sleep(FOLLOW_SECONDS)
            if offset < 0:
                yield b""


async def end_itself(cloud: Cloud, rented: Rented, powered_off: Callable[[], Any]) -> None:
    """Shut a machine down from within once its lease has run out."""
    loop = asyncio.get_running_loop()
    while rented.ended is None and not rented.gone:
        if loop.time() >= rented.facts["lease"]:
            rented.facts["off"] = loop.time()
            await powered_off()
            return
        await asyncio.sleep(5.0)
