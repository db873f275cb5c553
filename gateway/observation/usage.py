"""GPU-seconds and money of all jobs of this computer, from what lies in the runs' folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from flows.job_events.noting import used
from flows.job_events.spool import EventSpool
from flows.renting.journal import Journal
from flows.run_folder import RunFolder, run_folders


@dataclass(frozen=True, slots=True)
class UsedByJob:
    """What a job has used so far."""

    changed: int
    """When its folder last changed, in nanoseconds since the epoch."""
    is_open: bool
    """Whether it has GPUs, or a machine that costs money, now."""
    gpu_seconds: float
    usd: float


class UsageOfAll:
    """Adds up what jobs have used; reads again only what can have changed."""

    def __init__(self) -> None:
        self._known: dict[str, UsedByJob] = {}

    def total(self) -> tuple[float, float]:
        """Return the GPU-seconds and the USD of all jobs, those included whose folder is gone since."""
        self._known |= dict(self._changed())
        every = self._known.values()
        return sum(each.gpu_seconds for each in every), sum(each.usd for each in every)

    def _changed(self) -> Iterator[tuple[str, UsedByJob]]:
        for folder in run_folders():
            known = self._known.get(folder.name)
            # A folder may be removed while it is looked at, or hold what nobody can read.
            with suppress(OSError, ValueError):
                changed = folder.stat().st_mtime_ns
                if known is None or known.is_open or known.changed != changed:
                    yield folder.name, _usage(RunFolder(folder.name), changed)


def _usage(run: RunFolder, changed: int) -> UsedByJob:
    journal = Journal.of(run)
    has_gpus = bool(EventSpool.of(run.run_id).read().began)
    return UsedByJob(
        changed=changed,
        is_open=has_gpus or any(hire.is_open for hire in journal.hires),
        gpu_seconds=used(run)["gpu_seconds"],
        usd=journal.cost(),
    )
