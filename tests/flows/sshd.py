"""A machine over real SSH, for the tests of what is done on one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from blocks.keys import MachineKeys
from blocks.machines.ssh import SshMachine
from tests.clouds.machines import Profile, SshdMachine


@asynccontextmanager
async def over_ssh(
    folder: Path, profile: Profile | None = None
) -> AsyncIterator[tuple[SshMachine, str]]:
    """Yield a machine and our folder on it."""
    keys = MachineKeys(folder.name)
    sshd = SshdMachine(folder / "machine", public_keys=[keys.public_key()], profile=profile)
    with sshd:
        machine = SshMachine(
            sshd.address,
            port=sshd.port,
            user=sshd.user,
            private_key=keys.private_key,
            host_key=keys.host_key,
        )
        async with machine:
            yield machine, f"{sshd.home}/.training-orchestrator"
