"""How a process of ours reaches a machine of a walk: as any other, but for where the verbs go."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from blocks.machines.base import CommandResult, Transfer
from blocks.machines.local import LocalMachine
from blocks.workplaces.base import Lease, Log, Needed, Parcel, Ready, Wanted
from blocks.workplaces.machine import MachineWorkplace
from trainer.contract.errors import ConnectionLost, OrchestratorError

T = TypeVar("T")


class Reached(LocalMachine):
    """A connection to a machine that is a folder; it is lost when the machine ends."""

    def __init__(self, base: Path) -> None:
        self.base = base

    def check(self) -> None:
        if not (self.base / "on").exists():
            raise ConnectionLost(f"{self.base.name} does not answer.")

    async def _asked(self, call: Callable[[], Awaitable[T]]) -> T:
        self.check()
        try:
            answer = await call()
        except (OSError, OrchestratorError):
            self.check()
            raise
        self.check()  # what a machine says that ends meanwhile never arrives
        return answer

    async def run(self, command: Sequence[str], **options: Any) -> CommandResult:
        return await self._asked(lambda: LocalMachine.run(self, command, **options))

    async def upload(self, local: Path, remote: str) -> Transfer:
        return await self._asked(lambda: LocalMachine.upload(self, local, remote))

    async def download(self, remote: str, local: Path, *, limit: int | None = None) -> Transfer:
        return await self._asked(lambda: LocalMachine.download(self, remote, local, limit=limit))

    async def read(self, path: str) -> bytes | None:
        return await self._asked(lambda: LocalMachine.read(self, path))

    async def follow(self, path: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        self.check()
        async for chunk in super().follow(path, offset):
            self.check()
            yield chunk


class Place(MachineWorkplace):
    """A job directory there; nothing is installed or sent, and no process of its own trains."""

    machine: Reached

    async def ready(self, wanted: Wanted, lease: Lease) -> Ready:
        del wanted, lease
        await self.greet()
        return Ready(jobs=f"{self.machine.base}/jobs", gpus=(), disk_free_gb=100.0)

    async def renew(self, lease: Lease) -> None:
        """Do nothing: no machine of a walk has a lease."""

    async def install(self, needed: Needed, log: Log) -> str:
        del needed, log
        await self.machine.run(["mkdir", "-p", "--", self.folder])
        return "python"

    async def bring(self, parcel: Parcel, log: Log) -> str:
        del log
        return f"{self.machine.base}/data/{parcel.name}"

    async def start(self, python: str, env: Mapping[str, str]) -> bool:
        del python, env
        self.machine.check()
        if self._works():
            return True
        await self.replace("start", b"")
        return False

    async def examine(self, python: str) -> dict[str, Any]:
        del python
        # Before the status is read, as the supervisor's command line does.
        alive = self._works()
        status = dataclasses.asdict(await self.status())
        names = {"train_bytes": "train.log", "metrics_bytes": "metrics.jsonl"}
        sizes = {key: await self.size(name) for key, name in names.items()}
        return {**status, **sizes, "events_bytes": await self.size("events.jsonl"), "alive": alive}

    def _works(self) -> bool:
        return any(Path(self.folder, name).exists() for name in ("start", "alive"))
