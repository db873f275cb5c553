"""The training log: from its mirror when it is on this computer, else from Prefect."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort

from blocks.home import runs
from flows.outcome import job_state
from flows.streaming.log_shipper import LOGGER
from gateway.view import printable

PAGE = 200
POLL_SECONDS = 1.0
READ_BYTES = 1 << 20

Write = Callable[[str], None]


def mirror_of(run_id: UUID) -> Path | None:
    """Return the log's mirror on this computer, or None when there is none."""
    path = runs() / str(run_id) / "train.log"
    return path if path.is_file() else None


async def print_log(
    client: PrefectClient, run: FlowRun, write: Write, *, follow: bool, tail: int | None
) -> None:
    """Write the log's lines; with `follow` on and on until the job is at rest."""
    mirror = mirror_of(run.id)
    reader = MirrorReader(mirror) if mirror else ShippedReader(client, run.id)
    at_rest = not follow or job_state(run).at_rest
    if tail is None:
        await _write_new(reader, write)
    else:
        last: deque[str] = deque(maxlen=tail)
        await _write_new(reader, last.append)
        for line in last:
            write(line)
    while not at_rest:
        await asyncio.sleep(POLL_SECONDS)
        # Ask first: what was written before the job came to rest is read after.
        at_rest = job_state(await client.read_flow_run(run.id)).at_rest
        await _write_new(reader, write)
    if rest := reader.unfinished():
        write(rest)


async def _write_new(reader: MirrorReader | ShippedReader, write: Write) -> None:
    async for line in reader.new_lines():
        write(line)


class MirrorReader:
    """Reads on in the mirror; a line that has no end yet waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._started = b""

    async def new_lines(self) -> AsyncIterator[str]:
        """Yield the lines that are new."""
        for line in self.read():
            yield line

    def read(self) -> list[str]:
        """Return the lines that are new; a mirror that is not there yet has none."""
        if not self._path.is_file():
            return []
        found: list[str] = []
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            while chunk := stream.read(READ_BYTES):
                self._offset += len(chunk)
                *lines, self._started = (self._started + chunk).split(b"\n")
                found += [_text(line) for line in lines]
        return found

    def unfinished(self) -> str:
        """Return the last line when it has no end."""
        return _text(self._started)


class ShippedReader:
    """Reads on in what Prefect holds, by pages."""

    def __init__(self, client: PrefectClient, run_id: UUID) -> None:
        self._client = client
        self._filter = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
        self._offset = 0

    async def new_lines(self) -> AsyncIterator[str]:
        """Yield the lines that are new."""
        while True:
            page = await self._client.read_logs(
                self._filter, limit=PAGE, offset=self._offset, sort=LogSort.TIMESTAMP_ASC
            )
            self._offset += len(page)
            for log in page:
                if log.name == LOGGER:
                    for line in log.message.splitlines():
                        yield printable(line)
            if len(page) < PAGE:
                return

    def unfinished(self) -> str:
        """Return nothing: Prefect gets whole lines."""
        return ""


def _text(line: bytes) -> str:
    # A progress bar redraws its line with carriage returns: the last drawing is what was seen.
    return printable(line.decode(errors="replace").rstrip("\r").rpartition("\r")[2])
