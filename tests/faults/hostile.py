"""A machine that nobody vouches for, reached through a proxy."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from blocks.keys import MachineKeys
from blocks.machines.ssh import SshMachine
from blocks.workplaces.machine import MachineWorkplace
from tests.clouds.machines import SshdMachine
from tests.clouds.proxy import Proxy
from trainer.contract.manifest import MANIFEST, write_manifest

HEADER = b'{"__metadata__":{}}'
WEIGHTS = "adapter_model.safetensors"


class Hostile:
    """What a test has of such a machine."""

    def __init__(self, machine: SshMachine, proxy: Proxy, workspace: Path) -> None:
        self.machine = machine
        self.proxy = proxy
        self.workspace = workspace
        """The job directory there."""
        self.workplace = MachineWorkplace(machine, str(workspace))
        self.output = workspace / "output"

    def write_output(self, size: int = 1000, **files: bytes) -> Path:
        """Write an output with weights of so many bytes, and its true manifest."""
        self.output.mkdir(parents=True, exist_ok=True)
        head = len(HEADER).to_bytes(8, "little") + HEADER
        (self.output / WEIGHTS).write_bytes(head + os.urandom(size))
        for name, content in files.items():
            (self.output / name).write_bytes(content)
        write_manifest(self.output)
        return self.output

    def tell(self, manifest: Any) -> None:
        """Let the manifest of the output be this."""
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        (self.output / MANIFEST).write_text(text)


@asynccontextmanager
async def hostile_machine(folder: Path) -> AsyncIterator[Hostile]:
    """Yield one that runs."""
    keys = MachineKeys("hostile")
    with SshdMachine(folder / "there", public_keys=[keys.public_key()]) as sshd:
        async with Proxy(sshd.address, sshd.port) as proxy:
            machine = SshMachine(
                proxy.address,
                port=proxy.port,
                user=sshd.user,
                private_key=keys.private_key,
                host_key=keys.host_key,
            )
            async with machine:
                await machine.run(["true"])  # its host key is known from here on
                yield Hostile(machine, proxy, sshd.home / "jobs" / "job")


def flip(path: Path, offset: int = -1) -> None:
    """Flip one bit of a file, of the byte in its middle unless told otherwise."""
    content = bytearray(path.read_bytes())
    content[offset if offset >= 0 else len(content) // 2] ^= 1
    path.write_bytes(content)
