"""Watch a running job, from home, for what people are told of while it trains."""

from __future__ import annotations

from flows.notifying import noting
from flows.notifying.destinations import Destination
from flows.renting.journal import Journal
from flows.reporting.alerts import is_of_gpu, progress_of
from flows.reporting.watching import time_nearly_over
from flows.run_folder import RunFolder
from trainer.config import TrainingJob
from trainer.config.notifications import Notable
from trainer.contract.events import Kind, parse_events
from trainer.contract.tail import TailReader

SHARES = (80, 100)  # percent of limits.max_cost


class JobWatch:
    """Looks at the events, the metrics and the limits of one run, again and again."""

    def __init__(self, job: TrainingJob, run: RunFolder, receivers: list[Destination]) -> None:
        self._job = job
        self._run = run
        # From the beginning: an event seen before has the same key, and is not noted twice.
        self._tail = TailReader(run.events)
        self._percents = {one.progress_percent for one in receivers if one.progress_percent}
        self._said: set[str] = set()
        self._size = -1

    def look(self) -> None:
        """Look once, and note what is due."""
        for lines in self._tail.chunks():
            for event in parse_events(lines):
                if event.kind == Kind.OUT_OF_MEMORY and is_of_gpu(event.cause):
                    self._note(Notable.GPU_OOM, f"gpu_oom {event.at}", reason=event.cause)
        self._progress()
        self._limits()

    def _progress(self) -> None:
        size = self._run.metrics.stat().st_size if self._run.metrics.exists() else 0
        if not self._percents or size == self._size:
            return
        self._size = size
        done = float(progress_of(self._run.metrics)["progress"])
        # Only the last of those that were passed since the last look; the end is told by itself.
        for each in self._percents:
            reached = done // each * each
            if 0 < reached < 100:
                self._note(Notable.PROGRESS, f"progress {reached:g}", percent=reached)

    def _limits(self) -> None:
        told = noting.told_of(self._run.run_id)
        since = told.supervised_since if told else None
        if why := time_nearly_over(self._job.limits, since):
            self._note(Notable.TIMEOUT_WARNING, f"timeout_warning {since}", reason=why)
        if (cap := self._job.limits.max_cost) is None:
            return
        # The journal of the folder, not the flow's object: this is another thread.
        spent = 100 * Journal.of(self._run).cost() / cap
        for share in SHARES:
            if spent >= share:
                why = f"{share} % of limits.max_cost = {cap:g} USD are spent."
                self._note(Notable.BUDGET, f"budget {share} of {cap}", percent=share, reason=why)

    def _note(self, what: Notable, key: str, **facts: object) -> None:
        if key not in self._said:
            self._said.add(key)
            noting.note(self._run, what, key, **facts)
