"""Who goes first: a number for every waiting job, made of factors that can be shown."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flows.scheduling.pool import HOUR, Job, Policy, Running, Stint, Strategy

EQUAL_SHARE = 0.2  # of the pool: who has had so much counts half in fairness
LONG = 1.0 * HOUR  # of GPU time: a job that has so much before it counts half in shortness


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """What the place of a job in the queue comes from; each from 0 to 1, more goes first."""

    priority: float
    age: float
    fairness: float
    shortness: float
    overdue: bool
    """Whether it has waited beyond `Policy.max_wait`."""


Score = tuple[bool, float, float, str]
"""Overdue, the number by the strategy, when it was submitted (negated), and its id; greater goes first."""


class Ranking:
    """The order of a queue at one moment."""

    def __init__(
        self, policy: Policy, running: Iterable[Running], history: Iterable[Stint], now: float
    ) -> None:
        self._policy = policy
        self._now = now
        stints = [
            *history,
            *(
                Stint(
                    user=one.job.user,
                    project=one.job.project,
                    gpus=one.job.demand.gpus,
                    began=one.since,
                    ended=now,
                )
                for one in running
            ),
        ]
        self._of_users = shares(stints, now, policy, lambda stint: stint.user)
        self._of_projects = shares(stints, now, policy, lambda stint: stint.project)

    def factors(self, job: Job) -> Factors:
        """Return what a job's place comes from."""
        waited = self._now - job.submitted - job.ran
        share = max(
            self._of_users.get(job.user, 0.0),
            # Jobs without a project share nothing but the absence of one.
            self._of_projects.get(job.project, 0.0) if job.project else 0.0,
        )
        return Factors(
            priority=job.priority / 100,
            age=min(1.0, max(0.0, waited) / self._policy.ageing),
            fairness=2.0 ** (-share / EQUAL_SHARE),
            shortness=1.0 / (1.0 + job.seconds_left * max(1, job.demand.gpus) / LONG),
            overdue=waited > self._policy.max_wait,
        )

    def score(self, job: Job) -> Score:
        """Return what jobs are sorted by, the greatest first."""
        factors = self.factors(job)
        number = _NUMBERS[self._policy.strategy](factors)
        if factors.overdue:
            number = 0.0  # among those the longest wait decides
        return factors.overdue, number, -job.submitted, job.id

    def sort(self, jobs: Iterable[Job]) -> list[Job]:
        """Return jobs in the order in which they are considered.

        That of their scores, but who was paused for another job comes after it, while both wait: what
        is known of how long it still takes may be news, and it would take its GPUs back at once.
        """
        known = {job.id: (job, self.score(job)) for job in jobs}

        def place(job: Job) -> tuple[Score, int, Score]:
            score = known[job.id][1]
            own = score, 0, score
            whom = known[job.paused_for][0] if job.paused_for in known else job
            # Only ever for a higher priority, so there is no circle. Waiting has its end all the same.
            if whom.priority <= job.priority or score[0]:
                return own
            before, after, _ = place(whom)
            return min(own, (before, after - 1, score))

        return sorted((job for job, _ in known.values()), key=place, reverse=True)


_NUMBERS: Mapping[Strategy, Callable[[Factors], float]] = {
    Strategy.FIFO: lambda of: 0.0,
    Strategy.PRIORITY: lambda of: of.priority + of.age,
    Strategy.FAIR_SHARE: lambda of: of.fairness,
    Strategy.SHORTEST_FIRST: lambda of: of.shortness,
    Strategy.BALANCED: lambda of: of.priority + of.age + of.fairness + 1.5 * of.shortness,
}
"""Balanced: the weights by which `benchmarks/simulate_queue.py` comes out best on all its traces."""


def shares(
    stints: Sequence[Stint], now: float, policy: Policy, whose: Callable[[Stint], str]
) -> dict[str, float]:
    """Return which share of the recent GPU time each had, divided by what it is entitled to.

    Args:
        stints: who had GPUs when.
        now: what "recent" is counted from: a second counts half when it is a half-life old.
        policy: half-life and weights.
        whose: the user or the project of a stint.
    """
    had: dict[str, float] = defaultdict(float)
    for stint in stints:
        # The integral of 2^(-age / half-life) over the stint; the constant before it cancels out.
        newest, oldest = now - stint.ended, now - stint.began
        had[whose(stint)] += stint.gpus * (
            math.exp2(-max(0.0, newest) / policy.half_life)
            - math.exp2(-max(0.0, oldest) / policy.half_life)
        )
    total = sum(had.values())
    if total <= 0:
        return {}
    return {name: used / total / policy.weights.get(name, 1.0) for name, used in had.items()}
