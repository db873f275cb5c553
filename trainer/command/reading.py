"""Lines that another trainer prints → metrics.jsonl and status.json. Stdlib only."""

from __future__ import annotations

import json
import math
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from trainer.contract.errors import TrainingDiverged
from trainer.contract.files import append_line
from trainer.contract.job_directory import JobDirectory, JobState, utc_now
from trainer.contract.tail import TailReader

LONGEST = 4096  # characters of a line that are looked through
REMEMBERED = 40  # last lines, in which the cause of a failure is looked for
STATUS_SECONDS = 0.25  # between two writes of status.json
CHUNK = 1 << 16  # bytes read from the metrics' file at once
PLACE = ("step", "total_steps", "epoch")
_END = re.compile(rb"[\r\n]+")


class PrintedLines:
    """Cuts a stream of bytes into lines; a progress bar's carriage return ends one too."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[str]:
        """Yield the lines that `chunk` completes."""
        *whole, self._rest = _END.split(self._rest + chunk)
        # A program may print without ever ending a line; then a chunk is as good as one.
        if len(self._rest) > CHUNK:
            whole, self._rest = [*whole, self._rest], b""
        yield from shown(whole)

    def end(self) -> Iterator[str]:
        """Yield the line that nothing ended."""
        yield from self.feed(b"\n")


def shown(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines that hold anything as text; of a long one only the beginning."""
    for line in lines:
        if line.strip():
            yield line.rstrip(b"\r\n")[:LONGEST].decode(errors="replace")


class MetricsReader:
    """Understands lines by the job's patterns, and records what they say."""

    def __init__(
        self,
        directory: JobDirectory,
        patterns: Sequence[re.Pattern[str]],
        success: re.Pattern[str] | None = None,
        first_step: int = 0,
    ) -> None:
        self._directory = directory
        self._patterns = patterns
        self._success = success
        self._first_step = first_step
        status = directory.read_status()
        self._attempt = status.attempt
        self.step = status.step
        self._bar = 0  # the total that the first bar counted to; other bars count other things
        self._first: tuple[float, int] | None = None  # when this attempt was at its first step
        self._written = (0, 0)
        self._status_at = 0.0
        self.succeeded = success is None
        """Whether the pattern of success was printed."""
        self.last: deque[str] = deque(maxlen=REMEMBERED)

    def read(self, line: str) -> None:
        """Take in one line.

        Raises:
            TrainingDiverged: a loss is not a finite number.
        """
        self.last.append(line.strip())
        if self._success and self._success.search(line):
            self.succeeded = True
        self.understand(line)

    def understand(self, line: str) -> None:
        """Take in a line of the metrics' file, which is not part of the log.

        Raises:
            TrainingDiverged: a loss is not a finite number.
        """
        for pattern in self._patterns:
            if match := pattern.search(line):
                self._take(_numbers(match))

    def _take(self, found: dict[str, float]) -> None:
        if not self._place(found):
            return
        values = {name: value for name, value in found.items() if name not in PLACE}
        for name in ("train_loss", "eval_loss"):
            if not math.isfinite(values.get(name, 0.0)):
                raise TrainingDiverged(f"At step {self.step} {name} was {values[name]}.")
        # Other metrics than the losses may be infinite for a step, such as a gradient norm in
        # float16.
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        if values:
            place: dict[str, float] = {"step": self.step, "total_steps": self._bar}
            if math.isfinite(found.get("epoch", math.nan)):
                place["epoch"] = found["epoch"]
            place |= self._remaining()
            record = place | {"attempt": self._attempt, "timestamp": utc_now()} | values
            append_line(self._directory.metrics, json.dumps(record))
        self.show()

    def _remaining(self) -> dict[str, float]:
        """Return how long it takes from here, by the pace of this attempt."""
        moment = time.monotonic()
        self._first = self._first or (moment, self.step)
        began, first_step = self._first
        done = self.step - first_step
        if done <= 0 or not self._bar:
            return {}
        left = (moment - began) / done * max(0, self._bar - self.step)
        return {"eta_seconds": round(left, 1)}

    def _place(self, found: dict[str, float]) -> bool:
        """Note which step it is; return whether the line is about training at all."""
        # A pattern may match anything: a step beyond this is not exact to a reader of JSON.
        if not all(0 <= found[name] < 2**53 for name in ("step", "total_steps") if name in found):
            return False
        total = self._bar
        if "total_steps" in found:
            total = self._first_step + int(found["total_steps"])
        # Tokenising, evaluating and downloading have progress bars too; the training's is the
        # first, and others count to another total.
        if self._bar and total != self._bar:
            return False
        self._bar = total
        if "step" in found:
            self.step = self._first_step + int(found["step"])
        return True

    def show(self, *, now: bool = False) -> None:
        """Write the step into status.json, four times a second at most unless it must be `now`."""
        place, moment = (self.step, self._bar), time.monotonic()
        if now or (place != self._written and moment - self._status_at > STATUS_SECONDS):
            self._written, self._status_at = place, moment
            self._directory.update_status(
                durable=False, state=JobState.RUNNING, step=self.step, total_steps=self._bar
            )


class GrowingFile:
    """A file of metrics that grows beside what is printed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        size = path.stat().st_size if path.exists() else 0
        # What is there already was read by an earlier attempt.
        self._tail = TailReader(path, size, chunk=CHUNK, redrawn=True)

    def new_lines(self) -> Iterator[str]:
        """Yield the lines that came since the last call."""
        with suppress(OSError):
            # Truncated or replaced by a new start.
            if self._path.stat().st_size < self._tail.offset:
                self._tail.offset = 0
            for lines in self._tail.chunks():
                yield from shown(lines)


def _numbers(match: re.Match[str]) -> dict[str, float]:
    found = {}
    for name, text in match.groupdict().items():
        try:
            found[name] = float((text or "").replace(",", ""))
        except ValueError:
            continue
    return found
