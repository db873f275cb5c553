"""Decides which waiting jobs start, on which GPUs, and who is paused for them. No I/O.

The whole queue is looked at every time, in the order of the pool's strategy:

- What fits starts. A job has all its GPUs at once, on one machine, or none.
- The first job that does not fit is the head. It has a reservation: the moment at which it will fit by
  the estimates. Whatever comes after it starts only where that moment is not put off (backfill; EASY,
  Lifka 1995).
- If jobs of lower priority stand in the head's way, and pausing them is enough, they are paused. They
  lose no step, and keep their host in the queue.
- What may not start yet, and what no machine can ever hold, is nobody's obstacle.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence

from flows.scheduling.occupancy import MachineState, PoolState, why_never
from flows.scheduling.pool import (
    Decision,
    Demand,
    ExplainWait,
    Job,
    PauseJob,
    Policy,
    PoolMachine,
    Running,
    StartJob,
    Stint,
)
from flows.scheduling.ranking import Ranking
from flows.shown import short_id

NAMED = 2  # GPUs of others that a reason names one by one


def decide(
    queue: Iterable[Job],
    machines: Sequence[PoolMachine],
    running: Sequence[Running],
    history: Iterable[Stint],
    now: float,
    policy: Policy,
) -> list[Decision]:
    """Return what is to be done now, and of every job that goes on waiting why.

    Args:
        queue: the jobs that wait, in any order.
        machines: of the pool, with the GPUs that jobs may have.
        running: the jobs that have GPUs.
        history: who had GPUs before.
        now: seconds, on the clock of all times given.
        policy: of the pool.
    """
    ranking = Ranking(policy, running, history, now)
    return _Round(ranking, machines, running, now, policy).decide(ranking.sort(queue))


class _Round:
    """One decision."""

    def __init__(
        self,
        ranking: Ranking,
        machines: Sequence[PoolMachine],
        running: Sequence[Running],
        now: float,
        policy: Policy,
    ) -> None:
        self._ranking = ranking
        self._machines = machines
        self._now = now
        self._policy = policy
        self._state = PoolState(machines, running, now, policy.pause_seconds)
        self._jobs = len(running)
        self._pausing = sum(one.pausing for one in running)
        self._gpus_of: dict[str, int] = {}
        self._of_batch: dict[str, int] = {}
        for one in running:
            self._count(one.job)
        self._head: Job | None = None
        self._reserved: tuple[float, MachineState | None] = (math.inf, None)
        # What did not fit will not fit later in the round, for there is only less room then.
        self._too_large: set[Demand] = set()
        self._too_long: dict[Demand, float] = {}
        self._never: dict[Demand, str] = {}

    def decide(self, ranked: Sequence[Job]) -> list[Decision]:
        starts: list[Decision] = []
        waits: list[Decision] = []
        for place, job in enumerate(ranked, 1):
            reason = self._hindered(job)
            if not reason:
                placed = self._place(job)
                if not isinstance(placed, str):
                    host, gpus = placed
                    self._state.start(job, host, gpus)
                    self._count(job)
                    self._jobs += 1
                    starts.append(StartJob(job=job.id, machine=host.machine.name, gpus=gpus))
                    continue
                reason = placed
            when = self._reserved[0] if job is self._head else math.inf
            expected = None if math.isinf(when) else when
            waits.append(ExplainWait(job=job.id, place=place, reason=reason, expected=expected))
        return [*starts, *self._pauses(), *waits]

    def _hindered(self, job: Job) -> str:
        """Return why a job may not start whatever is free."""
        if job.held:
            return job.held
        if job.demand not in self._never:
            self._never[job.demand] = why_never(job.demand, self._machines)
        if reason := self._never[job.demand]:
            return f"can never start here: {reason}"
        if reason := self._over_quota(job):
            return reason
        if self._is_full():
            if self._head is None:  # others may be paused for it
                self._head = job
            return f"the pool runs {self._policy.max_jobs} jobs at most"
        if job.batch_limit is not None and self._of_batch.get(job.batch, 0) >= job.batch_limit:
            return f"batch {job.batch} runs {job.batch_limit} jobs at most"
        return ""

    def _is_full(self, leaving: int = 0) -> bool:
        """Whether no further job may run, once so many have gone."""
        return self._policy.max_jobs is not None and self._jobs - leaving >= self._policy.max_jobs

    def _over_quota(self, job: Job) -> str:
        quota = self._policy.quotas.get(job.project)
        if quota is None:
            return ""
        spent = self._policy.spent.get(job.project)
        had = self._gpus_of.get(job.project, 0)
        if quota.gpus is not None and had + job.demand.gpus > quota.gpus:
            return f"project {job.project} may have {quota.gpus} GPUs at once, and has {had}"
        if spent and quota.gpu_hours is not None and spent.gpu_hours >= quota.gpu_hours:
            return f"project {job.project} has used its {quota.gpu_hours:g} GPU hours"
        if spent and quota.usd is not None and spent.usd >= quota.usd:
            return f"project {job.project} has spent its {quota.usd:g} USD"
        return ""

    def _place(self, job: Job) -> tuple[MachineState, tuple[str, ...]] | str:
        """Return where a job starts now, or why it does not."""
        demand = job.demand
        if demand in self._too_large:
            return self._waits_for(job)
        if job.seconds_left >= self._too_long.get(demand, math.inf):
            return self._would_delay()
        found = self._state.fit(demand)
        if found is None:
            self._too_large.add(demand)
            if self._head is None:
                self._head, self._reserved = job, self._state.earliest(demand)
            return self._waits_for(job)
        if self._delays_head(job, *found):
            elsewhere = self._beside_the_reserved(job)
            if elsewhere is None:
                self._too_long[demand] = job.seconds_left
                return self._would_delay()
            found = elsewhere
        return found

    def _delays_head(self, job: Job, host: MachineState, gpus: tuple[str, ...]) -> bool:
        """Whether the head would start later if a job started here now."""
        when, reserved = self._reserved
        if self._head is None or host is not reserved or self._now + job.seconds_left <= when:
            return False
        later = copy.copy(host)
        later.put(
            Running(job=job, machine=host.machine.name, gpus=gpus, since=self._now),
            self._now + job.seconds_left,
        )
        return later.earliest(self._head.demand, self._now) > when

    def _beside_the_reserved(self, job: Job) -> tuple[MachineState, tuple[str, ...]] | None:
        """Return a place on a machine that the head does not wait for."""
        for host in self._state.machines.values():
            if host is not self._reserved[1]:
                gpus = host.fit(job.demand)
                if gpus is not None:
                    return host, gpus
        return None

    def _pauses(self) -> list[Decision]:
        """Return who is paused for the head."""
        head = self._head
        soon = self._reserved[0] <= self._now + self._policy.pause_seconds
        if head is None or not self._policy.preempts or soon or self._is_being_made_room(head):
            return []
        plans = [
            plan
            for host in self._state.machines.values()
            if (plan := self._victims(head, host)) is not None
        ]
        if not plans:
            return []
        # The least important victims, then the fewest, then those that lose the least time.
        best = min(
            plans,
            key=lambda plan: (
                max(one.job.priority for one in plan),
                len(plan),
                -min(one.since for one in plan),
            ),
        )
        return [PauseJob(job=one.job.id, whom=head.id) for one in best]

    def _is_being_made_room(self, head: Job) -> bool:
        """Whether the head starts as soon as those are gone that are being paused."""
        is_full = self._is_full(self._pausing)
        return not is_full and any(
            _without_pausing(host).fit(head.demand) is not None
            for host in self._state.machines.values()
        )

    def _victims(self, head: Job, host: MachineState) -> list[Running] | None:
        """Return the jobs of a machine whose pause lets the head start; None: they do not suffice."""
        score = self._ranking.score(head)
        may_go = [
            one
            for _, one in host.running
            if one.can_pause
            and not one.pausing
            and one.job.priority < head.priority
            and self._now - one.since >= self._policy.min_run
            # Else it would take the GPUs back at once.
            and self._ranking.score(one.job) < score
        ]
        may_go.sort(key=lambda one: (one.job.priority, -one.since))
        later, chosen = _without_pausing(host), list[Running]()

        def suffice() -> bool:
            is_full = self._is_full(self._pausing + len(chosen))
            return not is_full and later.fit(head.demand) is not None

        for one in may_go:
            if suffice():
                break
            later.take(one)
            chosen.append(one)
        if not suffice() or not chosen:
            return None
        for one in list(chosen):  # a large one that came last may have made a small one needless
            later.put(one, self._now)
            chosen.remove(one)
            if not suffice():
                later.take(one)
                chosen.append(one)
        return chosen

    def _count(self, job: Job) -> None:
        self._gpus_of[job.project] = self._gpus_of.get(job.project, 0) + job.demand.gpus
        self._of_batch[job.batch] = self._of_batch.get(job.batch, 0) + 1

    def _waits_for(self, job: Job) -> str:
        needs = _words(job.demand)
        if job is not self._head:
            return f"waits for {needs}"
        # Until when, the decision itself says.
        others = self._taken() if math.isinf(self._reserved[0]) else ""
        return f"is next, and waits for {needs}{others}"

    def _taken(self) -> str:
        """Return who has GPUs that is no job of the pool: nobody can say until when."""
        found = [
            f"{gpu.uuid} of {machine.name} is {gpu.taken}"
            for machine in self._machines
            for gpu in machine.gpus
            if gpu.taken
        ]
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        return f"; {'; '.join(found[:NAMED])}{more}" if found else ""

    def _would_delay(self) -> str:
        head = short_id(self._head.id) if self._head else "?"
        return f"would delay job {head}, which is next"


def _without_pausing(host: MachineState) -> MachineState:
    """Return a machine as it is once those are gone that are being paused."""
    later = copy.copy(host)
    for _, leaving in host.running:
        if leaving.pausing:
            later.take(leaving)
    return later


def _words(demand: Demand) -> str:
    """Return what a job needs, as one says it."""
    if demand.gpus == 0:
        return "a place on the CPU" if demand.cpu_jobs else "its turn"
    gpus = "a GPU" if demand.gpus == 1 else f"{demand.gpus} GPUs of one machine"
    if demand.shared:
        gpus = "a part of a GPU"
    return f"{gpus} with {demand.vram_gb:g} GiB" if demand.vram_gb else gpus
