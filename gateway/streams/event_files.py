"""What happened in trainings, read on in the mirrors of their event files."""

from __future__ import annotations

import asyncio
from pathlib import Path

from blocks.home import runs
from flows.run_folder import RUN_ID
from trainer.contract.events import Event, parse_events
from trainer.contract.tail import TailReader

FILE = "events.jsonl"


async def events_between(job: str, start: int, end: int | None = None) -> tuple[list[Event], int]:
    """Return the events of a job between two bytes of its file, and where they end.

    Args:
        job: its id; one without a file here has none.
        start: the first byte.
        end: the byte after the last; None: all that is there.
    """
    if not RUN_ID.fullmatch(job) or (end is not None and end <= start):
        return [], start
    return await asyncio.to_thread(_read, runs() / job / FILE, start, end)


def _read(path: Path, start: int, end: int | None) -> tuple[list[Event], int]:
    reader = TailReader(path, start)
    found: list[Event] = []
    for lines in reader.chunks():
        for line in lines:
            start += len(line)
            if end is not None and start > end:
                return found, end
            found += parse_events([line])
    return found, start
