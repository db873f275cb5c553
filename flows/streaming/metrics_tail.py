"""What was appended to a run's metrics since the last look. Nothing here imports Prefect."""

from __future__ import annotations

from pathlib import Path

from trainer.contract.metrics import Record, by_step, parse_records
from trainer.contract.tail import TailReader

MOST_STEPS = 100_000  # kept in memory; beyond that, every second one is dropped


class MetricsTail:
    """Reads what was appended to a metrics file; a line not yet finished waits."""

    def __init__(self, path: Path) -> None:
        self._tail = TailReader(path)
        self.steps: dict[int, Record] = {}
        self.skipped = 0
        self.unseen = False

    def read_new(self) -> bool:
        """Read on; return whether there is something that was not published."""
        # `unseen` is set by a reader that could not publish, so that it is called again.
        fresh, self.unseen = self.unseen, False
        for lines in self._tail.chunks():
            records, skipped = parse_records(lines)
            self.skipped += skipped
            if records:
                fresh = True
                self.steps = _thinned_out(by_step(records, self.steps))
        return fresh


def _thinned_out(steps: dict[int, Record]) -> dict[int, Record]:
    """Return every second step of too many, the newest always among them."""
    if len(steps) <= MOST_STEPS:
        return steps
    # Start at 0 or 1 so that the last index is always taken, whether the count is odd or even.
    return dict(list(steps.items())[(len(steps) + 1) % 2 :: 2])
