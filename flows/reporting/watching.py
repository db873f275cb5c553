"""Watch a running job, from home, for what is worth an alert: full GPUs, limits nearly reached."""

from __future__ import annotations

import time

from flows.renting.budget import Budget
from flows.renting.journal import Journal
from flows.reporting import alerts
from flows.reporting.spool import Spool
from flows.run_folder import RunFolder
from trainer.config import Limits, TrainingJob
from trainer.contract.events import Kind, parse_events
from trainer.contract.tail import TailReader

WARN_AT = 0.9  # of the time, or of the money


class Watch:
    """Looks at the events and the limits of one run, again and again."""

    def __init__(self, job: TrainingJob, run: RunFolder) -> None:
        self._job = job
        self._run = run
        # From the beginning: an event seen before has the same key, and is not noted twice.
        self._tail = TailReader(run.events)

    def look(self) -> None:
        """Look once, and raise the alerts that are due."""
        for lines in self._tail.chunks():
            for event in parse_events(lines):
                why = event.cause
                if event.kind == Kind.OUT_OF_MEMORY and alerts.is_of_gpu(why):
                    alerts.memory_ran_out(self._run, event.at, why)
        if why := self._nearly_over():
            alerts.nearly_over(self._run, why)

    def _nearly_over(self) -> str:
        """Return which limit is nearly reached, or nothing."""
        limits = self._job.limits
        # Read anew each time: a supervisor that is started again has all its minutes again.
        who = Spool(self._run).who()
        if why := time_nearly_over(limits, who.supervised_since if who else None):
            return why
        if limits.max_cost is not None:
            # The journal of the folder, not the flow's object: this is another thread.
            left = Budget(self._job, Journal.of(self._run)).left()
            if left <= (1 - WARN_AT) * limits.max_cost:
                return f"90 % of limits.max_cost = {limits.max_cost:g} USD is spent."
        return ""


def time_nearly_over(limits: Limits, since: float | None) -> str:
    """Return, in a sentence, that most of a job's time is used up; nothing before.

    Args:
        limits: the job's.
        since: when its supervisor was started, in seconds since the epoch; None: it was not.
    """
    minutes = limits.max_runtime_minutes
    if minutes is None or not since or time.time() - since < WARN_AT * 60 * minutes:
        return ""
    return f"90 % of limits.max_runtime_minutes = {minutes:g} is over."
