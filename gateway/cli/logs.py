"""The training log: from its mirror when it is on this computer, else from Prefect."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

from blocks.home import runs
from flows.shown import LOGGER, job_state
from gateway.prefect.client import PAGE, JobRun, LightClient
from gateway.view import printable
from trainer.contract.tail import TailReader

POLL_SECONDS = 1.0

WriteLine = Callable[[str], None]


def mirror_of(run_id: UUID) -> Path | None:
    """Return the log's mirror on this computer, or None if it is not here."""
    path = runs() / str(run_id) / "train.log"
    return path if path.is_file() else None


def print_log(
    client: LightClient, run: JobRun, write: WriteLine, *, follow: bool, tail: int | None
) -> None:
    """Write the log's lines; with `follow`, keep on until the job is at rest."""
    mirror = mirror_of(run.id)
    reader = MirrorReader(mirror) if mirror else ShippedReader(client, run.id)
    at_rest = not follow or job_state(run).at_rest
    if tail is None:
        _write_new(reader, write)
    else:
        # A bounded queue: a log of gigabytes passes through, and only its end is kept.
        last: deque[str] = deque(maxlen=tail)
        _write_new(reader, last.append)
        for line in last:
            write(line)
    while not at_rest:
        time.sleep(POLL_SECONDS)
        # Ask first: what was written before the job came to rest is read after.
        at_rest = job_state(client.read_flow_run(run.id)).at_rest
        _write_new(reader, write)
    if rest := reader.unfinished():
        write(rest)


def _write_new(reader: MirrorReader | ShippedReader, write: WriteLine) -> None:
    for line in reader.new_lines():
        write(line)


class MirrorReader:
    """Reads on in the mirror; a line that has no end yet waits."""

    def __init__(self, path: Path, *, whole: bool = True) -> None:
        """Begin with the first line, or with those that are appended from now on."""
        # The size is taken now, before the process that appends is started: nothing of it is
        # missed.
        begin = 0 if whole or not path.is_file() else path.stat().st_size
        self._tail = TailReader(path, begin)
        self._started = b""  # the pieces of a line that is longer than a chunk

    def new_lines(self) -> Iterator[str]:
        """Yield the lines that are new."""
        yield from self.read()

    def read(self) -> list[str]:
        """Return the lines that are new; a mirror that is not there yet has none."""
        found: list[str] = []
        for lines in self._tail.chunks():
            for line in lines:
                self._started += line
                if line.endswith(b"\n"):
                    found.append(_text(self._started))
                    self._started = b""
        return found

    def unfinished(self) -> str:
        """Return the last line when it has no end."""
        return _text(self._started + b"".join(self._tail.peek(rest=True)))


class ShippedReader:
    """Reads on in what Prefect holds, by pages."""

    def __init__(self, client: LightClient, run_id: UUID) -> None:
        self._client = client
        self._run_id = run_id
        self._offset = 0

    def new_lines(self) -> Iterator[str]:
        """Yield the lines that are new."""
        while True:
            page = self._client.logs(self._run_id, offset=self._offset)
            self._offset += len(page)
            for log in page:
                # A run's log at Prefect also holds lines of Prefect's own loggers.
                if log["name"] == LOGGER:
                    for line in log["message"].splitlines():
                        yield printable(line)
            # A full page may be followed by another; a short one is the end, for now.
            if len(page) < PAGE:
                return

    def unfinished(self) -> str:
        """Return nothing: Prefect gets whole lines."""
        return ""


def _text(line: bytes) -> str:
    # A progress bar redraws its line with carriage returns: the last drawing is what was seen.
    return printable(line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2])
