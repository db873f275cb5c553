"""The metrics files of this computer's runs, followed into the store byte by byte."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blocks.home import runs
from flows.run_folder import RUN_ID
from gateway.metrics.store import DAY, MetricsStore
from trainer.contract.metrics import Record, parse_records
from trainer.contract.tail import TailReader

LOOK_SECONDS = 0.05  # between two looks at files that grow, or that somebody watches
SCAN_SECONDS = 2.0  # between two looks at all; longer where there are many
SCAN_SHARE = 0.05  # of the time, at most
FRESH_SECONDS = 900.0  # after its last line a file counts as growing
READ_BYTES = 1 << 18  # at a time: a large file does not keep the others waiting
AGAIN_SECONDS = 2.0  # after a failure
FILE = "metrics.jsonl"
log = logging.getLogger(__name__)


@dataclass(slots=True)
class FollowedFile:
    """A file, and how far it is in the store."""

    path: Path
    offset: int
    changed: float = 0.0
    """When it last grew, by our clock."""


class Follower:
    """Reads what is appended to the files, each byte once, whichever replica does it."""

    def __init__(self, store: MetricsStore, *, retention_days: float | None = None) -> None:
        self._store = store
        self._retention = retention_days
        self._files: dict[str, FollowedFile] = {}
        self._watched: set[str] = set()
        self._fails = False

    def watch(self, job: str) -> None:
        """Look at a job's file often from now on: somebody waits for what it gets."""
        self._watched.add(job)

    def unwatch(self, job: str) -> None:
        """Look at a job's file as at any other."""
        self._watched.discard(job)

    async def run(self) -> None:
        """Follow for ever. Runs until it is cancelled."""
        scan_at = 0.0
        while True:
            began = time.monotonic()
            try:
                if began >= scan_at:
                    await self.scan()
                    took = time.monotonic() - began
                    scan_at = began + max(SCAN_SECONDS, took / SCAN_SHARE)
                await self.look()
                self._fails = False
            except Exception as error:  # noqa: BLE001 - nothing is lost: the files are there
                if not self._fails:
                    log.warning("metrics are followed later (%s: %s)", type(error).__name__, error)
                self._fails = True
                await asyncio.sleep(AGAIN_SECONDS)
            await asyncio.sleep(LOOK_SECONDS)

    async def scan(self) -> None:
        """Look at all files, and read those that have grown."""
        sizes = await asyncio.to_thread(_sizes, self._oldest())
        new = [job for job in sizes if job not in self._files]
        for at in range(0, len(new), 500):
            known = await self._store.followed(new[at : at + 500])
            for job in new[at : at + 500]:
                self._files[job] = FollowedFile(sizes[job][0], known.get(job, 0))
        for job in self._files.keys() - sizes.keys():
            del self._files[job]
        for job, (_, size) in sizes.items():
            if size != self._files[job].offset:
                await self._read(job, size)

    async def look(self) -> None:
        """Read on in the files that grow or are watched."""
        if missing := self._watched - self._files.keys():
            found = await asyncio.to_thread(_paths_of, missing)
            known = await self._store.followed(found) if found else {}
            for job, path in found.items():
                self._files[job] = FollowedFile(path, known.get(job, 0))
        now = time.monotonic()
        wanted = {
            job: file.path
            for job, file in self._files.items()
            if job in self._watched or (file.changed and now - file.changed < FRESH_SECONDS)
        }
        sizes = await asyncio.to_thread(_sizes_of, wanted) if wanted else {}
        for job, size in sizes.items():
            if size != self._files[job].offset:
                await self._read(job, size)

    async def _read(self, job: str, size: int) -> None:
        """Read a part of a file that waits; more of it at the next look."""
        file = self._files[job]
        if size < file.offset:
            # Another file than before: it was put back from elsewhere.
            await self._store.rebuild(job, file.path)
            file.offset = (await self._store.followed([job]))[job]
            return
        records, end = await asyncio.to_thread(_next, file.path, file.offset)
        if end == file.offset:
            return
        file.changed = time.monotonic()
        if await self._store.append_followed(job, records, file.offset, end):
            file.offset = end
        else:
            file.offset = (await self._store.followed([job])).get(job, 0)

    def _oldest(self) -> float:
        return 0.0 if self._retention is None else time.time() - self._retention * DAY


def _next(path: Path, offset: int) -> tuple[list[Record], int]:
    """Return the next records of a file, and where they end."""
    reader = TailReader(path, offset, chunk=READ_BYTES)
    records, _ = parse_records(reader.read())
    return records, reader.offset


def _sizes(oldest: float) -> dict[str, tuple[Path, int]]:
    """Return path and size of all files that were written since, by run, the newest first."""
    found: list[tuple[float, str, Path, int]] = []
    with os.scandir(runs()) as folders:
        for path in _files(folders):
            with suppress(OSError):
                facts = path.stat()
                if facts.st_mtime >= oldest:
                    found.append((facts.st_mtime, path.parent.name, path, facts.st_size))
    return {job: (path, size) for _, job, path, size in sorted(found, reverse=True)}


def _files(folders: Iterable[os.DirEntry[str]]) -> Iterable[Path]:
    return (Path(each.path) / FILE for each in folders if RUN_ID.fullmatch(each.name))


def _paths_of(jobs: Iterable[str]) -> dict[str, Path]:
    paths = {job: runs() / job / FILE for job in jobs if RUN_ID.fullmatch(job)}
    return {job: path for job, path in paths.items() if path.exists()}


def _sizes_of(paths: Mapping[str, Path]) -> dict[str, int]:
    """Return the sizes of files; of one that is gone, what is stored stays."""
    found = {}
    for job, path in paths.items():
        with suppress(OSError):
            found[job] = path.stat().st_size
    return found
