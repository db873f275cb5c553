"""What is seen at home of a running job that is worth an alert: full GPUs, limits nearly reached."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import BinaryIO

from flows.renting.budget import Budget
from flows.renting.journal import Journal
from flows.reporting import alerts
from flows.reporting.spool import Spool
from flows.run_folder import RunFolder
from trainer.config import TrainingJob

WARN_AT = 0.9  # of the time, or of the money
READ_BYTES = 1 << 20  # of the log at a time
RESTART = re.compile(
    rb"^restart with batch size \d+ instead of \d+ after OutOfMemory: (.*)", re.MULTILINE
)
"""What the supervisor says in the log when memory ran out and it goes on with a smaller batch."""


class Watch:
    """Looks at the log and the limits of one run, again and again."""

    def __init__(self, job: TrainingJob, run: RunFolder) -> None:
        self._job = job
        self._run = run
        self._offset = 0  # of the log; a line that was seen before raises no second alert

    def look(self) -> None:
        """Look once, and raise the alerts that are due."""
        for offset, why in self._restarts():
            if alerts.is_of_gpu(why):
                alerts.memory_ran_out(self._run, offset, why)
        if why := self._nearly_over():
            alerts.nearly_over(self._run, why)

    def _restarts(self) -> Iterator[tuple[int, str]]:
        """Yield why memory ran out, and where in the log that begins, for what was not seen."""
        try:
            with self._run.log.open("rb") as stream:
                while content := self._whole_lines(stream):
                    for found in RESTART.finditer(content):
                        why = found[1].decode(errors="replace").strip()
                        yield self._offset + found.start(), why
                    self._offset += len(content)
        except FileNotFoundError:
            return

    def _whole_lines(self, stream: BinaryIO) -> bytes:
        stream.seek(self._offset)
        content = stream.read(READ_BYTES)
        end = content.rfind(b"\n") + 1
        return content[:end] if end or len(content) < READ_BYTES else content

    def _nearly_over(self) -> str:
        """Return which limit is nearly reached, or nothing."""
        limits = self._job.limits
        if limits.max_runtime_minutes is not None:
            who = Spool(self._run).who()
            since = who.supervised_since if who else None
            if since and time.time() - since >= WARN_AT * 60 * limits.max_runtime_minutes:
                return (
                    f"90 % of limits.max_runtime_minutes = {limits.max_runtime_minutes:g} are over."
                )
        if limits.max_cost is not None:
            left = Budget(self._job, Journal.of(self._run)).left()
            if left <= (1 - WARN_AT) * limits.max_cost:
                return f"90 % of limits.max_cost = {limits.max_cost:g} USD are spent."
        return ""
