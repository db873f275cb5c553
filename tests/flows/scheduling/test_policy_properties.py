"""What the policy of a pool promises on pools and queues at random; by hand: `test_policy`."""

from __future__ import annotations

import dataclasses
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.scheduling.occupancy import PoolState
from flows.scheduling.policy import decide
from flows.scheduling.pool import (
    HOUR,
    Demand,
    ExplainWait,
    Job,
    PauseJob,
    Policy,
    PoolGpu,
    PoolMachine,
    Quota,
    Running,
    StartJob,
    Strategy,
)
from flows.scheduling.ranking import Ranking

NOW = 1_000_000.0
FEW = settings(max_examples=60)
# Most ask for GPUs alone: what asks for much of everything fits nowhere, and is in nobody's way.
PLAIN = st.builds(Demand, gpus=st.sampled_from([1, 1, 2, 4]))
DEMANDING = st.builds(
    Demand,
    gpus=st.sampled_from([0, 1, 1, 1, 2, 4, 8]),
    vram_gb=st.sampled_from([0.0, 0.0, 10.0, 24.0, 80.0]),
    shared=st.booleans(),
    kinds=st.sampled_from([(), (), ("A100",), ("L4", "A100")]),
    ram_gb=st.sampled_from([0.0, 16.0, 200.0]),
    threads=st.sampled_from([0.0, 4.0]),
)
DEMANDS = PLAIN | PLAIN | DEMANDING


@st.composite
def pools(draw: st.DrawFn) -> list[PoolMachine]:
    machines = []
    for number in range(draw(st.sampled_from([1, 1, 2, 3]))):
        kind, vram = draw(st.sampled_from([("A100", 80.0), ("L4", 24.0)]))
        gpus = tuple(
            PoolGpu(uuid=f"{number}-{n}", vram_gb=vram, kind=kind, island=str(n // 2))
            for n in range(draw(st.sampled_from([4, 2, 8, 1, 0])))
        )
        machines.append(
            PoolMachine(
                name=f"m{number}",
                gpus=gpus,
                ram_gb=draw(st.sampled_from([64.0, 256.0])),
                threads=16,
                shares=draw(st.booleans()),
            )
        )
    return machines


@st.composite
def queues(draw: st.DrawFn, most: int = 12) -> list[Job]:
    return [
        Job(
            id=f"j{number}",
            submitted=NOW - draw(st.sampled_from([0.0, 60.0, 3 * HOUR, 80 * HOUR])),
            demand=draw(DEMANDS),
            priority=draw(st.sampled_from([20, 50, 90])),
            user=draw(st.sampled_from("ab")),
            project=draw(st.sampled_from(["", "p", "q"])),
            seconds_left=draw(st.sampled_from([60.0, HOUR, 20 * HOUR])),
            held=draw(st.sampled_from(["", "", "", "comes after job x"])),
        )
        for number in range(draw(st.integers(most // 2, most) | st.integers(0, most)))
    ]


def started(made: list, queue: list[Job], since: float = NOW) -> list[Running]:
    jobs = {job.id: job for job in queue}
    return [
        Running(job=jobs[one.job], machine=one.machine, gpus=one.gpus, since=since)
        for one in made
        if isinstance(one, StartJob)
    ]


POLICIES = st.builds(
    Policy,
    strategy=st.sampled_from(Strategy),
    preempts=st.booleans(),
    max_jobs=st.sampled_from([None, None, 3]),
    quotas=st.sampled_from([{}, {"p": Quota(gpus=2)}]),
)


@FEW
@given(pools(), queues(), queues(6), POLICIES)
def test_nothing_is_given_twice_and_every_job_gets_all_it_needs(machines, before, queue, policy):
    """Also beside what runs already, and with parts of GPUs."""
    earlier = [dataclasses.replace(job, id=f"e{job.id}") for job in before]
    running = started(decide(earlier, machines, [], [], NOW - 700, policy), earlier, NOW - 700)
    made = decide(queue, machines, running, [], NOW, policy)

    new = started(made, queue)
    by_name = {machine.name: machine for machine in machines}
    for machine in machines:
        here = [one for one in [*running, *new] if one.machine == machine.name]
        assert sum(one.job.demand.ram_gb for one in here) <= machine.ram_gb
        assert sum(one.job.demand.threads for one in here) <= machine.threads
        for gpu in machine.gpus:
            on_it = [one.job.demand for one in here if gpu.uuid in one.gpus]
            assert sum(demand.vram_gb for demand in on_it) <= gpu.vram_gb
            assert len(on_it) <= 1 or (machine.shares and all(demand.shared for demand in on_it))
    for one in new:
        gpus = {gpu.uuid: gpu for gpu in by_name[one.machine].gpus}
        assert len(set(one.gpus)) == one.job.demand.gpus
        kinds = one.job.demand.kinds
        assert all(uuid in gpus and (not kinds or gpus[uuid].kind in kinds) for uuid in one.gpus)
        assert not one.job.held
    if policy.max_jobs is not None:
        assert not new or len(running) + len(new) <= policy.max_jobs
    if policy.quotas:
        used = sum(one.job.demand.gpus for one in running if one.job.project == "p")
        more = sum(one.job.demand.gpus for one in new if one.job.project == "p")
        assert not more or used + more <= 2


@FEW
@given(pools(), queues(), queues(6), POLICIES)
def test_every_job_is_started_or_explained_and_the_order_of_the_queue_does_not_matter(
    machines, before, queue, policy
):
    earlier = [dataclasses.replace(job, id=f"e{job.id}") for job in before]
    running = started(decide(earlier, machines, [], [], NOW - 700, policy), earlier, NOW - 700)
    made = decide(queue, machines, running, [], NOW, policy)
    mixed = random.Random(0).sample(queue, len(queue))  # noqa: S311 - no secret
    assert decide(mixed, machines, running, [], NOW, policy) == made
    starts = [one.job for one in made if isinstance(one, StartJob)]
    waits = [one.job for one in made if isinstance(one, ExplainWait)]
    assert sorted(starts + waits) == sorted(job.id for job in queue)
    assert all(one.reason for one in made if isinstance(one, ExplainWait))


@FEW
@given(pools(), queues())
def test_an_empty_pool_starts_the_first_job_that_may_start(machines, queue):
    """So there is no deadlock: when all that runs has ended, the queue moves."""
    made = decide(queue, machines, [], [], NOW, Policy())
    waits = [one for one in made if isinstance(one, ExplainWait)]
    never = {one.job for one in waits if one.reason.startswith("can never")}
    ranked = Ranking(Policy(), [], [], NOW).sort(queue)
    first = next((job.id for job in ranked if not job.held and job.id not in never), None)
    assert first is None or first in [one.job for one in made if isinstance(one, StartJob)]


@FEW
@given(pools(), queues(), queues(6), st.sampled_from(Strategy))
def test_what_is_started_before_its_turn_delays_the_head_by_nothing(
    machines, before, queue, strategy
):
    policy = Policy(strategy=strategy, preempts=False)
    earlier = [dataclasses.replace(job, id=f"e{job.id}") for job in before]
    running = started(decide(earlier, machines, [], [], NOW - 700, policy), earlier, NOW - 700)
    made = decide(queue, machines, running, [], NOW, policy)
    new = started(made, queue)

    ranked = Ranking(policy, running, [], NOW).sort(queue)
    place = {job.id: number for number, job in enumerate(ranked)}
    waiting = {one.job for one in made if isinstance(one, ExplainWait)}
    head = next(
        (
            job
            for job in ranked
            if job.id in waiting
            and not job.held
            and not any(
                one.job == job.id and one.reason.startswith("can never")
                for one in made
                if isinstance(one, ExplainWait)
            )
        ),
        None,
    )
    if head is None:
        return
    in_turn = [one for one in new if place[one.job.id] < place[head.id]]
    alone = PoolState(machines, [*running, *in_turn], NOW, 60).earliest(head.demand)[0]
    with_all = PoolState(machines, [*running, *new], NOW, 60).earliest(head.demand)[0]
    assert with_all <= alone


@st.composite
def full_pools(draw: st.DrawFn) -> tuple[list[PoolMachine], list[Running]]:
    """Return machines whose GPUs are all held, by jobs of one or two GPUs."""
    machines, running = [], []
    for name in "ab"[: draw(st.integers(1, 2))]:
        gpus = [f"{name}{n}" for n in range(draw(st.integers(1, 4)))]
        machines.append(
            PoolMachine(name=name, gpus=tuple(PoolGpu(uuid=uuid, vram_gb=24.0) for uuid in gpus))
        )
        while gpus:
            held = tuple(gpus.pop() for _ in range(min(len(gpus), draw(st.integers(1, 2)))))
            ran = draw(st.sampled_from([30.0, 700.0, 5000.0]))
            running.append(
                Running(
                    job=Job(
                        id=f"on-{held[0]}",
                        submitted=NOW - ran - draw(st.sampled_from([0.0, HOUR, 80 * HOUR])),
                        demand=Demand(gpus=len(held)),
                        priority=draw(st.sampled_from([20, 50, 90])),
                        seconds_left=draw(st.sampled_from([10.0, HOUR, 20 * HOUR])),
                    ),
                    machine=name,
                    gpus=held,
                    since=NOW - ran,
                    can_pause=draw(st.sampled_from([True, True, True, False])),
                    pausing=draw(st.sampled_from([False, False, False, True])),
                )
            )
    return machines, running


@settings(max_examples=200)
@given(
    full_pools(),
    st.lists(
        st.tuples(
            st.integers(1, 4), st.sampled_from([50, 90]), st.sampled_from([0.0, HOUR, 100 * HOUR])
        ),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from(Strategy),
    st.sampled_from([None, None, 0, 1]),
)
def test_only_lesser_jobs_that_ran_a_while_are_paused_and_only_if_that_is_enough(
    full, asked, strategy, further
):
    machines, running = full
    most = None if further is None else len(running) + further
    policy = Policy(strategy=strategy, max_jobs=most)
    queue = [
        Job(id=f"q{n}", submitted=NOW - n - ago, demand=Demand(gpus=gpus), priority=priority)
        for n, (gpus, priority, ago) in enumerate(asked)
    ]
    made = decide(queue, machines, running, [], NOW, policy)

    paused = {one.job: one.whom for one in made if isinstance(one, PauseJob)}
    assert len(set(paused.values())) <= 1
    if not paused:
        return
    head = next(job for job in queue if job.id in paused.values())
    victims = [one for one in running if one.job.id in paused]
    assert all(one.job.priority < head.priority for one in victims)
    assert all(NOW - one.since >= policy.min_run for one in victims)
    assert all(one.can_pause and not one.pausing for one in victims)
    rest = [one for one in running if one not in victims and not one.pausing]

    def suffices(left: list[Running]) -> bool:
        is_full = most is not None and len(left) >= most
        return not is_full and PoolState(machines, left, NOW, 60).fit(head.demand) is not None

    assert suffices(rest)
    assert not any(suffices([*rest, spared]) for spared in victims)  # every one of them is needed
    # And when they are gone it is the head that starts, on what they had.
    waiting = [*queue, *(one.job for one in victims)]
    after = decide(waiting, machines, rest, [], NOW + 60, policy)
    assert head.id in [one.job for one in after if isinstance(one, StartJob)]


@settings(max_examples=12)
@given(
    st.sampled_from(Strategy),
    st.integers(1, 4),
    st.sampled_from([1, 2]),
    st.booleans(),
)
def test_no_job_is_starved_by_others_that_come_for_ever(strategy, gpus, each, preempts):
    """Beyond `max_wait` a job starts as soon as what runs then has ended, whoever else is there."""
    step, longest, number = 300.0, 5, 0
    policy = Policy(strategy=strategy, max_wait=2 * HOUR, preempts=preempts)
    pool = [PoolMachine(name="m", gpus=tuple(PoolGpu(uuid=f"g{n}", vram_gb=1) for n in range(4)))]
    queue = [
        Job(id="poor", submitted=NOW, demand=Demand(gpus=gpus), priority=0, seconds_left=20 * HOUR)
    ]
    running: list[Running] = []
    each_takes: dict[str, float] = {}
    now = NOW
    while "poor" not in {one.job.id for one in running}:
        assert now <= NOW + policy.max_wait + (longest + 2) * step
        left = [one.since + each_takes[one.job.id] - now for one in running]
        running = [
            dataclasses.replace(one, job=dataclasses.replace(one.job, seconds_left=seconds))
            for one, seconds in zip(running, left, strict=True)
            if seconds > 0
        ]
        for _ in range(4):  # twice as much as the pool can do, and more
            number += 1
            each_takes[f"rich{number}"] = step * (1 + number % longest)  # not all end at once
            queue.append(
                Job(
                    id=f"rich{number}",
                    submitted=now,
                    demand=Demand(gpus=each),
                    priority=100,
                    user=str(number),
                    seconds_left=each_takes[f"rich{number}"],
                )
            )
        new = started(decide(queue, pool, running, [], now, policy), queue, now)
        running += new
        queue = [job for job in queue if job not in [one.job for one in new]]
        now += step
