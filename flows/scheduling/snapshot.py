"""A pool at one moment, as `decide` takes it: made from its runs and its rules. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from flows.scheduling.administration import Rules
from flows.scheduling.policy import decide
from flows.scheduling.pool import HOUR, Decision, ExplainWait, Job, Policy, Running, Spent, StartJob
from flows.scheduling.ranking import Ranking
from flows.scheduling.seen import Demands, SeenRun, job_of, stints
from flows.scheduling.settings import PoolSettings
from flows.shown import PAUSING, REVIVING

FORGOTTEN = 6  # half-lives after which GPUs that somebody has had count for nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRuns:
    """The runs of a pool."""

    waiting: Mapping[str, SeenRun]
    active: Mapping[str, SeenRun]
    ended: Sequence[SeenRun] = ()
    left: Mapping[str, float] = field(default_factory=dict)
    """By id: how many seconds a run will still take, where that was measured."""
    held: Mapping[str, str] = field(default_factory=dict)
    """By id: why a run may not start yet, whatever is free."""
    usd: Mapping[str, float] = field(default_factory=dict)
    """By id: what a run has cost so far, where that matters."""

    def of_projects(self, names: Collection[str]) -> list[SeenRun]:
        """Return the runs of some projects that may have cost something."""
        again = (run for run in self.waiting.values() if run.ran > 0)
        every = (*self.ended, *self.active.values(), *again)
        return [run for run in every if run.project in names]


class Snapshot:
    """A pool at one moment."""

    def __init__(
        self, runs: PoolRuns, rules: Rules, now: float, *, here: str = "", limit: int | None = None
    ) -> None:
        """Make from runs and rules what `decide` takes.

        Args:
            runs: of the pool.
            rules: of the pool, with its machines.
            now: seconds since the epoch.
            here: the machine of the worker that asks, on which flows that are no jobs start.
            limit: how many jobs may run at once, by that worker.
        """
        self.runs, self.rules, self.now = runs, rules, now
        self._here = here
        self._limits = [each for each in (rules.limit, limit) if each is not None]
        self._demands = Demands(rules.machines)
        completed = [run for run in runs.ended if run.type == "COMPLETED"]
        completed.sort(key=lambda run: run.ended or 0.0)  # of one name the last counts
        self._took = {run.name: run.ran for run in completed}
        # One whose process died goes on where it has its GPUs: nobody decides about it again.
        self._at_once = [r for r in runs.waiting.values() if r.state == REVIVING or not r.is_job]
        at_work = [*runs.active.values(), *self._at_once]
        self.running = [self._running(run) for run in at_work if run.is_job]
        again = [run for run in runs.waiting.values() if run.ran > 0]
        self.history = stints([*runs.ended, *again], self._demands)
        skipped = {run.id for run in self._at_once}
        self.queue = [self._job(run) for id, run in runs.waiting.items() if id not in skipped]

    def decide(self) -> list[Decision]:
        """Return what is to be done now; see `flows.scheduling.policy`."""
        made = decide(
            self.queue, self.rules.machines, self.running, self.history, self.now, self.policy()
        )
        return [*self._attached(), *self._within_queues(made)]

    def policy(self) -> Policy:
        """Return the pool's policy, with what its projects have had."""
        return self.rules.settings.policy(self._spent(), limit=min(self._limits, default=None))

    def ranking(self) -> Ranking:
        """Return the order of the queue, with its factors."""
        return Ranking(self.policy(), self.running, self.history, self.now)

    def _attached(self) -> Iterator[Decision]:
        for run in self._at_once:
            given = run.allotment if run.is_job else None
            if self.rules.paused and not run.is_job:
                continue
            machine = given.machine if given else self._here
            yield StartJob(job=run.id, machine=machine, gpus=given.gpus if given else ())

    def _job(self, run: SeenRun) -> Job:
        left = self.runs.left.get(run.id)
        if left is None and run.name in self._took:
            left = max(0.0, min(self._took[run.name], run.cap) - run.ran) or None
        held = self.runs.held.get(run.id) or self._closed(run)
        return job_of(run, self._demands.of(run.wishes), left=left, held=held)

    def _closed(self, run: SeenRun) -> str:
        if self.rules.paused:
            return "the pool is paused"
        queue = self.rules.queues.get(run.queue)
        return f"queue {run.queue} is paused" if queue and queue.paused else ""

    def _running(self, run: SeenRun) -> Running:
        given = run.allotment
        return Running(
            job=self._job(run),
            machine=given.machine if given else "",
            gpus=given.gpus if given else (),
            since=given.since if given else run.began or self.now,
            can_pause=run.type == "RUNNING" and run.wishes.here and run.wishes.exact,
            pausing=run.state == PAUSING or run.type == "CANCELLING",
        )

    def _within_queues(self, made: Iterable[Decision]) -> Iterator[Decision]:
        """Yield what was decided, but for what the limit of a work queue forbids."""
        busy = Counter(run.queue for run in self.runs.active.values())
        for one in made:
            if not isinstance(one, StartJob):
                yield one
                continue
            name = self.runs.waiting[one.job].queue
            queue = self.rules.queues.get(name)
            if queue and queue.limit is not None and busy[name] >= queue.limit:
                reason = f"queue {name} runs {queue.limit} jobs at most"
                yield ExplainWait(job=one.job, place=1, reason=reason)
                continue
            busy[name] += 1
            yield one

    def _spent(self) -> dict[str, Spent]:
        """Return what each project with a quota has had within its period."""
        start = self.now - self.rules.settings.quota_period
        found: dict[str, Spent] = {}
        for name in self.rules.settings.quotas:
            ended = sum(
                stint.gpus * max(0.0, stint.ended - max(stint.began, start))
                for stint in self.history
                if stint.project == name
            )
            since = sum(
                one.job.demand.gpus * max(0.0, self.now - max(one.since, start))
                for one in self.running
                if one.job.project == name
            )
            usd = sum(
                self.runs.usd.get(run.id, 0.0)
                for run in self.runs.of_projects({name})
                if run.ended is None or run.ended >= start
            )
            found[name] = Spent(gpu_hours=(ended + since) / HOUR, usd=usd)
        return found


def horizon(settings: PoolSettings) -> float:
    """Return for how many seconds back it matters who had GPUs."""
    counted = any(q.gpu_hours is not None or q.usd is not None for q in settings.quotas.values())
    return max(FORGOTTEN * settings.half_life, settings.quota_period if counted else 0.0)
