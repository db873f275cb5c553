"""Hears the provider announce that it takes this machine back. Standard library only.

A provider that sells machines which it may take back says so on the machine itself, some seconds
or minutes before. How to listen for that is a line of sh of the provider's own, in `job.json`: it
waits, and ends with exit code 0 when the machine is being taken.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import Self

from trainer.contract.events import Kind, note_event
from trainer.contract.files import append_line, replace_json
from trainer.contract.job_directory import JobDirectory, utc_now
from trainer.supervision.process import die_with_parent

AGAIN_SECONDS = 30.0  # from a line that failed to its next start
MESSAGE = "the provider takes this machine back: a checkpoint is saved at once"


class Notice:
    """Listens beside the training. As a context manager: nothing of it is left running."""

    def __init__(self, job: JobDirectory, line: str) -> None:
        """Prepare to listen.

        Args:
            job: in whose directory the trainer looks for `notice.json`.
            line: of sh; empty: this provider announces nothing.
        """
        self._job = job
        self._line = line
        self._process: subprocess.Popen[bytes] | None = None
        self._again_at: float | None = None

    def __enter__(self) -> Self:
        # That of an earlier supervisor: if it still holds, the line says so at once.
        self._job.notice.unlink(missing_ok=True)
        if self._line:
            self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            # All of it: what the line waits for may be a program that it started.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def look(self) -> None:
        """Pass a notice on that came since the last look: to the trainer, the log, the events."""
        if self._process is None:
            if self._again_at is not None and time.monotonic() >= self._again_at:
                self._listen()
            return
        code = self._process.poll()
        if code is None:
            return
        self._process = None
        if code:
            self._again_at = time.monotonic() + AGAIN_SECONDS
            return
        self._again_at = None
        # The request first: on a disk that is full the rest may fail, and the time is short.
        with suppress(OSError):
            replace_json(self._job.notice, {"at": utc_now()})
        with suppress(OSError):
            append_line(self._job.log, MESSAGE)
        note_event(self._job, Kind.NOTICE, MESSAGE, step=self._job.read_status().step)

    def _listen(self) -> None:
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the provider's own line
                ["/bin/sh", "-c", self._line],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                # Safe although preexec_fn is discouraged: a supervisor has a single thread.
                preexec_fn=die_with_parent,
            )
        except OSError:  # no process or no memory is left: training matters more
            self._again_at = time.monotonic() + AGAIN_SECONDS
