"""What was appended to a run's metrics since the last look. Nothing here imports Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from trainer.contract.metrics import Record, by_step, parse_records

READ_BYTES = 1 << 20  # of the metrics at a time; a line that is longer is no record
MOST_STEPS = 100_000  # kept in memory; of more, every second one is let go


class MetricsTail:
    """Reads what was appended to a metrics file; a line not yet finished waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.steps: dict[int, Record] = {}
        self.skipped = 0
        self.unseen = False

    def read_new(self) -> bool:
        """Read on; return whether there is something that was not published."""
        fresh, self.unseen = self.unseen, False
        try:
            with self._path.open("rb") as stream:
                while records := self._take(stream):
                    fresh = True
                    self.steps = _thinned_out(by_step(records, self.steps))
        except FileNotFoundError:
            pass
        return fresh

    def _take(self, stream: BinaryIO) -> list[Record]:
        """Return the records of the next lines, however many lines hold none; none at the end."""
        while True:
            stream.seek(self._offset)
            content = stream.read(READ_BYTES)
            end = content.rfind(b"\n") + 1
            if end == 0 and len(content) == READ_BYTES:
                end = READ_BYTES
            if end == 0:
                return []
            records, skipped = parse_records(content[:end].splitlines())
            self._offset += end
            self.skipped += skipped
            if records:
                return records


def _thinned_out(steps: dict[int, Record]) -> dict[int, Record]:
    """Return every second step of too many, the newest always among them."""
    if len(steps) <= MOST_STEPS:
        return steps
    return dict(list(steps.items())[(len(steps) + 1) % 2 :: 2])
