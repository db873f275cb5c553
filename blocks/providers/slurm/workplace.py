"""A job directory on the file system that a cluster's nodes share, worked at on one of them."""

from __future__ import annotations

from typing import Any

from blocks.machines import sentinel
from blocks.machines.base import Machine
from blocks.machines.shell import run_script
from blocks.workplaces.base import Lease, Log, Needed
from blocks.workplaces.machine import SMALL_SECONDS, MachineWorkplace, base_of

# $1: the folder of the node's agent, $2: a job directory
_LINK = 'mkdir -p -- "$1/jobs" && ln -sfn -- "$2" "$1/jobs/${2##*/}"'


class SlurmWorkplace(MachineWorkplace):
    """Environments and data are shared by all nodes; the dead-man switch is each allocation's own."""

    def __init__(
        self, machine: Machine, folder: str, *, login: Machine, place: str, **options: Any
    ) -> None:
        """Prepare to work there; see `MachineWorkplace`.

        Args:
            machine: the node.
            folder: absolute path of the job directory.
            login: the login node, by which the files are there when the allocation has ended too.
            place: the folder of the node's agent, absolute.
            options: for `MachineWorkplace`.
        """
        super().__init__(machine, folder, **options)
        self.files = login
        self._place = place

    async def install(self, needed: Needed, log: Log) -> str:
        """Make an environment that has the trainer; see `Workplace.install`."""
        python = await super().install(needed, log)
        # By this the switch finds the job that it has to stop.
        await run_script(self.machine, _LINK, self._place, self.folder, timeout=SMALL_SECONDS)
        return python

    async def renew(self, lease: Lease) -> None:
        """Renew the lease of the allocation and of the job; see `Workplace.renew`."""
        if not await sentinel.renew(self.machine, self._place, self.folder, lease.term_seconds):
            await self._arm(base_of(self.folder), lease)

    async def vacate(self, seconds: float) -> None:
        """Remove the job directory. Environments and data stay for the next job."""
        await self.machine.run(["rm", "-rf", "--", self.folder], timeout=SMALL_SECONDS)
        await sentinel.renew(self.machine, self._place, None, seconds)

    async def _arm(self, base: str, lease: Lease) -> None:
        # Not in our folder in the home: other nodes, whose processes have the same numbers, share it.
        await super()._arm(self._place, lease)
