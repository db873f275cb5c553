"""Every credential of a test is a canary: it must be seen in no place that is not private."""

from __future__ import annotations

import asyncio
import stat
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from blocks.home import keys
from tests.clouds.cloud import Cloud

TOKENS = {"HF_TOKEN": "hf_" + uuid4().hex, "WANDB_API_KEY": uuid4().hex}
"""Environment variables that go to the machine, and what they are while the tests run."""
PRIVATE = 0o600
LOOK_SECONDS = 0.25


class Canaries:
    """Looks out for secrets: for those of machines too, whose keys appear meanwhile."""

    def __init__(self, clouds: list[Cloud]) -> None:
        self.secrets = {*TOKENS.values(), *(cloud.key for cloud in clouds)}
        self.told: set[str] = set()
        """Command lines of processes that held one."""
        self.looks = 0

    async def watch(self) -> None:
        """Look at the arguments of every process until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """Look once."""
        self.looks += 1
        for path in keys().glob("*/id_ed25519"):
            with suppress(OSError, IndexError):  # it is being written, or its machine is gone
                self.secrets.add(path.read_text().splitlines()[2])
        wanted = [secret.encode() for secret in self.secrets]
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                content = path.read_bytes()
                if any(secret in content for secret in wanted):
                    self.told.add(content.decode(errors="replace"))

    def leaks(self, *folders: Path) -> list[Path]:
        """Return the files that hold a secret and may be read by others than their owner."""
        wanted = [secret.encode() for secret in self.secrets]
        found = []
        for path in [p for folder in folders for p in folder.rglob("*") if p.is_file()]:
            with suppress(OSError):
                content = path.read_bytes()
                private = stat.S_IMODE(path.stat().st_mode) & ~PRIVATE == 0
                if not private and any(secret in content for secret in wanted):
                    found.append(path)
        return found
