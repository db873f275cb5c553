"""A machine as a place to train: over SSH, or this computer."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from blocks.machines import sentinel
from blocks.machines.base import CommandResult, Machine, Transfer
from blocks.machines.disk import room_in
from blocks.machines.readiness import become_ready
from blocks.workplaces.base import (
    Lease,
    Log,
    Needed,
    NoAnswer,
    Parcel,
    Ready,
    Room,
    Wanted,
    Workplace,
)
from blocks.workplaces.delivery import deliver
from blocks.workplaces.environment import prepare
from trainer.config.extras import check_extras, check_trainer
from trainer.contract.errors import ConnectionLost, GpusTaken, MachineLost, from_dict
from trainer.contract.own_python import own_python

COMMAND_SECONDS = 90.0  # for one call of the supervisor: a Python starts, on a machine that is busy
MAX_QUOTE = 500  # characters of what a machine says
SMALL_SECONDS = 60.0  # for what takes a moment, on a disk that is busy


class MachineWorkplace(Workplace):
    """A job directory on a machine, by the machine's verbs."""

    carries: ClassVar[bool] = True

    def __init__(
        self,
        machine: Machine,
        folder: str,
        *,
        where: str = "",
        shutdown_command: str = ":",
        notice_command: str = "",
    ) -> None:
        """Prepare to work there; nothing is sent yet.

        Args:
            machine: the connection to it.
            folder: absolute path of the job directory; empty until it has been ready once.
            where: what the machine is called in messages.
            shutdown_command: a line of sh by which it ends itself when its lease expires.
            notice_command: a line of sh by which it learns that its provider takes it back.
        """
        self.notice_command = notice_command
        self.machine = machine
        self.files = machine
        """By which the files of the job directory are worked with: another machine may have them too."""
        self.folder = folder
        self._where = where or "the machine"
        self._shutdown_command = shutdown_command

    async def ready(self, wanted: Wanted, lease: Lease) -> Ready:
        """Check what the machine has, and arm its dead-man switch; see `Workplace.ready`."""
        facts = await become_ready(
            self.machine,
            gpu_count=wanted.gpu_count,
            gpu_type=wanted.gpu_type,
            disk_gb=wanted.disk_gb,
        )
        # From here on the machine ends itself when nobody renews its lease: before this, only the
        # provider's bill knows of it.
        await self._arm(facts.base, lease)
        return Ready(
            jobs=f"{facts.base}/jobs",
            gpus=tuple(name for name, _ in facts.gpus),
            disk_free_gb=facts.disk_free_gb,
        )

    async def greet(self) -> None:
        """Run nothing; see `Workplace.greet`."""
        await self.machine.run(["true"])

    async def renew(self, lease: Lease) -> None:
        """Renew the lease; a sentinel that is dead is started anew; see `Workplace.renew`."""
        base = base_of(self.folder)
        # It is dead after a reboot, for instance.
        if not await sentinel.renew(self.machine, base, self.folder, lease.term_seconds):
            await self._arm(base, lease)

    async def vacate(self, seconds: float) -> None:
        """Remove the job directory. Environments and data stay for the next job."""
        await self.machine.run(["rm", "-rf", "--", self.folder], timeout=SMALL_SECONDS)
        await sentinel.renew(self.machine, base_of(self.folder), None, seconds)

    async def close(self) -> None:
        """End the connection."""
        await self.machine.close()

    async def install(self, needed: Needed, log: Log) -> str:
        """Make an environment that has the trainer; see `Workplace.install`."""
        ours = await asyncio.to_thread(needed.wheel)
        python = await prepare(self.machine, base_of(self.folder), ours, log, also=needed.also)
        await self.machine.run(["mkdir", "-p", "--", self.folder], timeout=SMALL_SECONDS)
        return python

    async def run_lines(self, lines: Sequence[str], env: Mapping[str, str], log: Log) -> None:
        """Run them with bash in the job directory; see `Workplace.run_lines`."""
        await self.machine.run_shell(lines, env=env, cwd=self.folder, log=log)

    async def bring(self, parcel: Parcel, log: Log) -> str:
        """Upload it into the machine's data folder; see `Workplace.bring`."""
        return await deliver(self.machine, f"{base_of(self.folder)}/data", parcel, log)

    async def start(self, python: str, env: Mapping[str, str]) -> bool:
        """Start the supervisor, which outlives the connection; see `Workplace.start`."""
        answer = await self._supervisor(python, env, "--detach")
        if taken := answer.get("gpus_taken"):
            raise GpusTaken(str(taken)[:MAX_QUOTE])
        if isinstance(refused := answer.get("refused"), dict):
            raise from_dict({name: str(value)[:MAX_QUOTE] for name, value in refused.items()})
        return bool(answer["already_running"])

    async def examine(self, python: str) -> dict[str, Any]:
        """Ask the supervisor's command line; see `Workplace.examine`."""
        return await self._supervisor(python, {}, "--status")

    async def call(self, python: str, env: Mapping[str, str], *words: str) -> CommandResult:
        """Run `python -m` with these words; see `Workplace.call`.

        Raises:
            ConnectionLost: it takes too long, or the machine cannot be reached.
        """
        try:
            return await self.machine.run(
                own_python("-m", *words, python=python),
                env=env,
                cwd=self._cwd(),
                timeout=COMMAND_SECONDS,
            )
        except TimeoutError:
            raise ConnectionLost(
                f"'python -m {' '.join(words[:2])}' took over {COMMAND_SECONDS:g} s on "
                f"{self._where}."
            ) from None

    async def read(self, name: str) -> bytes | None:
        """See `Workplace.read`."""
        return await self.files.read(self._path(name))

    async def replace(self, name: str, content: bytes) -> None:
        """See `Workplace.replace`."""
        await self.files.write(self._path(name), content)

    async def listing(self, name: str) -> list[str]:
        """See `Workplace.listing`."""
        return await self.files.listing(self._path(name))

    async def size(self, name: str) -> int:
        """See `Workplace.size`."""
        # By wc, which every image has, because the Python there may be what is broken.
        result = await self.files.run(["wc", "-c", self._path(name)], timeout=SMALL_SECONDS)
        count = result.stdout.split()[:1]
        return int(count[0]) if count and count[0].isdecimal() else 0

    async def room(self) -> Room:
        """See `Workplace.room`."""
        result = await self.files.run(["df", "-Pk", self.folder], timeout=SMALL_SECONDS)
        return room_in(result.stdout.strip().rpartition("\n")[2])

    async def remove(self, names: Sequence[str]) -> None:
        """See `Workplace.remove`."""
        await self.files.run(["rm", "-rf", "--", *map(self._path, names)], timeout=COMMAND_SECONDS)

    async def begin(self, name: str, size: int) -> None:
        """See `Workplace.begin`.

        Raises:
            ConnectionLost: a signal ended the command.
            MachineLost: it failed there.
        """
        # A sparse file: the hole takes no room on the machine's disk either.
        command = ["truncate", "-s", str(size), self._path(name)]
        result = await self.files.run(command, timeout=COMMAND_SECONDS)
        if result.exit_code < 0:
            raise ConnectionLost(f"{command[0]} was killed on {self._where}.")
        if result.exit_code:
            raise MachineLost(f"{command[0]} failed on {self._where}: {result.stderr.strip()}")

    async def put(self, local: Path, name: str) -> Transfer:
        """See `Workplace.put`."""
        return await self.files.upload(local, self._path(name))

    async def fetch(self, name: str, local: Path, *, limit: int | None = None) -> Transfer:
        """See `Workplace.fetch`."""
        return await self.files.download(self._path(name), local, limit=limit)

    def follow(self, name: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        """See `Workplace.follow`."""
        return self.files.follow(self._path(name), offset)

    def _path(self, name: str) -> str:
        return f"{self.folder}/{name}"

    def _cwd(self) -> str | None:
        # Not the job directory: nothing in it may be imported by the trainer.
        return base_of(self.folder)

    async def _arm(self, base: str, lease: Lease) -> None:
        await sentinel.arm(
            self.machine,
            base,
            lease.term_seconds,
            self._shutdown_command,
            grace_seconds=lease.grace_seconds,
        )

    async def _supervisor(self, python: str, env: Mapping[str, str], verb: str) -> dict[str, Any]:
        """Call the supervisor's command line on the machine and return the JSON it prints."""
        result = await self.call(python, env, "trainer", verb, self.folder)
        # The last line: a shell's profile or a library may print before it.
        with suppress(ValueError, IndexError):
            answer = json.loads(result.stdout.strip().splitlines()[-1])
            if isinstance(answer, dict):
                return answer
        raise NoAnswer(
            f"'python -m trainer {verb}' ended with exit code {result.exit_code} on "
            f"{self._where}: {result.stderr.strip()[-300:]}"
        )


class HomeWorkplace(MachineWorkplace):
    """A job directory on this computer, whose Python has the trainer already."""

    is_home: ClassVar[bool] = True
    carries: ClassVar[bool] = False  # what is here is put into a store from here

    async def install(self, needed: Needed, log: Log) -> str:
        """Check that what the job needs is there; see `Workplace.install`."""
        if needed.training.trainer == "builtin":  # what another trainer needs is not known here
            found = check_trainer()
            log(f"environment: {', '.join(f'{name} {version}' for name, version in found.items())}")
        check_extras(needed.training)
        return sys.executable

    async def renew(self, lease: Lease) -> None:
        """Do nothing: this computer has no lease."""

    def _cwd(self) -> str | None:
        return None


def base_of(folder: str) -> str:
    """Return the folder on a machine that holds everything of ours, from a job directory in it."""
    return folder.rpartition("/jobs/")[0]
