"""A file of the machine that only grows, mirrored here byte for byte."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

from blocks.machines.base import Machine
from flows.logger import logger

MISSING_SECONDS = 30.0  # without a further byte of what the machine says is there


async def mirror_file(machine: Machine, source: str, local: Path) -> None:
    """Append to the mirror what the file has beyond it. Runs until it is cancelled."""
    # Unbuffered and append-only: the size of the mirror is the offset to go on from, also after a
    # crash, so no byte may wait in this process.
    with local.open("ab", buffering=0) as stream:
        async with aclosing(machine.follow(source, stream.tell())) as chunks:
            async for chunk in chunks:
                stream.write(chunk)


async def until_size(path: Path, size: Any) -> None:
    """Wait until the mirror has as many bytes as the machine says, or log what is missing."""
    # Sizes come from the machine's JSON: anything but a whole number waits for nothing.
    wanted = size if isinstance(size, int) else 0
    have, since = -1, time.monotonic()
    while (now := _size(path)) < wanted:
        if now != have:
            have, since = now, time.monotonic()
        elif time.monotonic() - since > MISSING_SECONDS:
            # Not raised: the end of a job must not fail for some lines of its log.
            logger().error("%s is incomplete: %d of %d bytes arrived", path.name, now, wanted)
            return
        await asyncio.sleep(0.02)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
