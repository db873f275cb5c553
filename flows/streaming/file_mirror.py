"""A file of the job directory that only grows, mirrored here byte for byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from blocks.task_scope import TaskScope
from blocks.workplaces.base import Workplace
from flows.logger import logger

MISSING_SECONDS = 30.0  # without a further byte of what the machine says is there


async def mirror_file(workplace: Workplace, name: str, local: Path) -> None:
    """Append to the mirror what the file has beyond it. Runs until it is cancelled."""
    # Unbuffered and append-only: the size of the mirror is the offset to go on from, also after a
    # crash, so no byte may wait in this process.
    with local.open("ab", buffering=0) as stream:
        async with aclosing(workplace.follow(name, stream.tell())) as chunks:
            async for chunk in chunks:
                # On a disk that is almost full a write may take a part; the next one then raises.
                rest = memoryview(chunk)
                while rest:
                    rest = rest[stream.write(rest) :]


async def until_size(path: Path, size: Any) -> bool:
    """Wait until the mirror has as many bytes as the machine says; False when no more come."""
    # Sizes come from the machine's JSON: anything but a whole number waits for nothing.
    wanted = size if isinstance(size, int) else 0
    have, since = -1, time.monotonic()
    while (now := size_of(path)) < wanted:
        if now != have:
            have, since = now, time.monotonic()
        elif time.monotonic() - since > MISSING_SECONDS:
            logger().warning("%s: no more than %d of %d bytes arrive", path.name, now, wanted)
            return False
        await asyncio.sleep(0.02)
    return True


async def fetch_rest(workplace: Workplace, sizes: Mapping[Path, Any]) -> bool:
    """Append to each mirror what it lacks of the file of its name; whether all are whole.

    Args:
        workplace: where they are; a connection that nothing else mirrors these files by.
        sizes: how many bytes each has there.
    """
    for mirror, size in sizes.items():
        async with TaskScope() as scope:
            scope.start(mirror_file(workplace, mirror.name, mirror))  # ends by failing
            if not await scope.result_of(until_size(mirror, size)):
                return False
    return True


def missing(sizes: Mapping[Path, Any]) -> str:
    """Return what the mirrors lack, in words: `train.log: 12 of 30 bytes`; empty: nothing."""
    short = [
        f"{path.name}: {size_of(path)} of {size} bytes"
        for path, size in sizes.items()
        if isinstance(size, int) and size_of(path) < size
    ]
    return f"not all came home of {', '.join(short)}" if short else ""


def size_of(path: Path) -> int:
    """Return the bytes of a mirror that may not have begun."""
    return path.stat().st_size if path.exists() else 0
