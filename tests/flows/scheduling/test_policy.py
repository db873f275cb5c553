"""What the policy of a pool promises, on pools and queues at random and on small ones by hand."""

from __future__ import annotations

import dataclasses
import random

import pytest
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
    Spent,
    StartJob,
    Stint,
    Strategy,
)
from flows.scheduling.ranking import Ranking, shares

NOW = 1_000_000.0
FEW = settings(max_examples=60)
DEMANDS = st.builds(
    Demand,
    gpus=st.sampled_from([0, 1, 1, 1, 2, 4, 8]),
    vram_gb=st.sampled_from([0.0, 0.0, 10.0, 24.0, 80.0]),
    shared=st.booleans(),
    kinds=st.sampled_from([(), (), ("A100",), ("L4", "A100")]),
    ram_gb=st.sampled_from([0.0, 16.0, 200.0]),
    threads=st.sampled_from([0.0, 4.0]),
)


@st.composite
def pools(draw: st.DrawFn) -> list[PoolMachine]:
    machines = []
    for number in range(draw(st.integers(1, 3))):
        kind, vram = draw(st.sampled_from([("A100", 80.0), ("L4", 24.0)]))
        gpus = tuple(
            PoolGpu(uuid=f"{number}-{n}", vram_gb=vram, kind=kind, island=str(n // 2))
            for n in range(draw(st.integers(0, 8)))
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
        for number in range(draw(st.integers(0, most)))
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
def test_an_empty_pool_starts_something_if_anything_may_start(machines, queue):
    """So there is no deadlock: when all that runs has ended, the queue moves."""
    made = decide(queue, machines, [], [], NOW, Policy())
    waits = [one for one in made if isinstance(one, ExplainWait)]
    could = [
        job
        for job in queue
        if not job.held
        and any(one.job == job.id and not one.reason.startswith("can never") for one in waits)
    ]
    assert not could or any(isinstance(one, StartJob) for one in made)


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
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([50, 90])), min_size=1, max_size=3),
    st.sampled_from(Strategy),
)
def test_only_lesser_jobs_that_ran_a_while_are_paused_and_only_if_that_is_enough(
    full, asked, strategy
):
    machines, running = full
    policy = Policy(strategy=strategy)
    queue = [
        Job(id=f"q{n}", submitted=NOW - n, demand=Demand(gpus=gpus), priority=priority)
        for n, (gpus, priority) in enumerate(asked)
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
    assert PoolState(machines, rest, NOW, 60).fit(head.demand) is not None
    for spared in victims:  # every one of them is needed
        assert PoolState(machines, [*rest, spared], NOW, 60).fit(head.demand) is None
    # And when they are gone it is the head that starts, on what they had.
    waiting = [*queue, *(one.job for one in victims)]
    assert head.id in starts(waiting, machines, rest, [], NOW + 60, policy)


def one_machine(count: int = 2, **more) -> list[PoolMachine]:
    return [
        PoolMachine(
            name="host",
            gpus=tuple(PoolGpu(uuid=f"g{n}", vram_gb=24.0) for n in range(count)),
            **more,
        )
    ]


def job(id: str, *, waited: float = 0.0, gpus: int = 1, **more) -> Job:
    demand = more.pop("demand", Demand(gpus=gpus))
    return Job(id=id, submitted=NOW - waited, demand=demand, **more)


def on(id: str, *gpus: str, ran: float = HOUR, **more) -> Running:
    """Return a job that has run on these GPUs for a while."""
    return Running(
        job=job(id, waited=2 * ran, gpus=len(gpus), **more),
        machine="host",
        gpus=gpus,
        since=NOW - ran,
    )


def starts(*given, **more) -> list[str]:
    return [one.job for one in decide(*given, **more) if isinstance(one, StartJob)]


@pytest.mark.parametrize(
    ("strategy", "first"),
    [
        ("fifo", "oldest"),
        ("priority", "urgent"),
        ("fair_share", "light"),
        ("shortest_first", "short"),
    ],
)
def test_a_strategy_says_who_goes_first(strategy, first):
    queue = [
        job("oldest", waited=HOUR, user="heavy", seconds_left=9 * HOUR),
        job("urgent", waited=60, user="heavy", priority=99, seconds_left=9 * HOUR),
        job("light", waited=60, user="light", seconds_left=9 * HOUR),
        job("short", waited=60, user="heavy", seconds_left=60),
    ]
    had = Stint(user="heavy", project="", gpus=1, began=NOW - 9 * HOUR, ended=NOW - HOUR)
    policy = Policy(strategy=Strategy(strategy))
    assert starts(queue, one_machine(1), [], [had], NOW, policy) == [first]


@pytest.mark.parametrize("strategy", Strategy)
def test_whoever_has_waited_beyond_the_limit_goes_first(strategy):
    queue = [
        job("forgotten", waited=73 * HOUR, user="heavy", priority=0, seconds_left=40 * HOUR),
        job("urgent", waited=HOUR, user="light", priority=100, seconds_left=60),
    ]
    had = Stint(user="heavy", project="", gpus=8, began=NOW - 9 * HOUR, ended=NOW)
    policy = Policy(strategy=strategy)
    assert starts(queue, one_machine(1), [], [had], NOW, policy) == ["forgotten"]


def test_a_job_for_the_whole_machine_is_not_starved_by_small_ones():
    queue = [
        job("whole", waited=HOUR, gpus=2),
        *(job(f"small{n}", seconds_left=3 * HOUR) for n in range(5)),
        job("brief", seconds_left=60),
    ]
    running = [on("busy", "g0", seconds_left=HOUR)]
    made = decide(queue, one_machine(), running, [], NOW, Policy(strategy=Strategy.FIFO))
    assert [one.job for one in made if isinstance(one, StartJob)] == ["brief"]
    why = {one.job: one for one in made if isinstance(one, ExplainWait)}
    assert why["whole"].expected == NOW + HOUR
    assert (
        why["whole"].reason
        == "is next, and will have 2 GPUs of one machine in 1:00:00 h at the latest"
    )
    assert why["small0"].reason == "would delay job whole, which is next"


def test_small_jobs_go_where_others_are_so_that_a_large_one_finds_a_whole_machine():
    machines = [
        PoolMachine(
            name=name, gpus=tuple(PoolGpu(uuid=f"{name}{n}", vram_gb=24.0) for n in range(4))
        )
        for name in ("empty", "used")
    ]
    running = [dataclasses.replace(on("busy", "used0"), machine="used")]
    made = decide([job("small")], machines, running, [], NOW, Policy())
    assert isinstance(made[0], StartJob)
    assert made[0].machine == "used"


def test_several_gpus_come_from_one_island():
    gpus = tuple(
        PoolGpu(uuid=f"g{n}", vram_gb=24.0, island=island) for n, island in enumerate("aababb")
    )
    machines = [PoolMachine(name="host", gpus=gpus)]
    made = decide([job("three", gpus=3)], machines, [on("busy", "g0")], [], NOW, Policy())
    assert made == [StartJob(job="three", machine="host", gpus=("g2", "g4", "g5"))]


def test_parts_of_a_gpu_are_shared_only_where_the_pool_allows_it():
    part = Demand(gpus=1, vram_gb=10, shared=True)
    queue = [job(f"p{n}", demand=part) for n in range(5)]
    assert len(starts(queue, one_machine(shares=True), [], [], NOW, Policy())) == 4
    assert len(starts(queue, one_machine(shares=False), [], [], NOW, Policy())) == 2


def test_an_urgent_job_has_a_lesser_one_paused_which_keeps_its_place():
    running = [on("a", "g0", priority=20), on("b", "g1", priority=20, ran=HOUR / 2)]
    made = decide([job("urgent", priority=90)], one_machine(), running, [], NOW, Policy())
    assert made[0] == PauseJob(job="b", whom="urgent")  # it loses the least
    # While that takes its time nobody else is paused, and nobody takes the GPU.
    pausing = [running[0], dataclasses.replace(running[1], pausing=True)]
    queue = [job("urgent", priority=90), job("late", priority=20, seconds_left=HOUR)]
    made = decide(queue, one_machine(), pausing, [], NOW + 10, Policy())
    assert all(isinstance(one, ExplainWait) for one in made)
    # Then the urgent one has it, not the one that was paused for it.
    queue = [job("urgent", priority=90), running[1].job]
    assert starts(queue, one_machine(), [running[0]], [], NOW + 20, Policy()) == ["urgent"]


def test_nobody_is_paused_in_vain_or_for_an_equal():
    running = [on("a", "g0", priority=20), on("b", "g1", priority=90)]
    both = job("both", priority=90, gpus=2)
    equal = job("equal", priority=20)
    for waiting in (both, equal):
        made = decide([waiting], one_machine(), running, [], NOW, Policy())
        assert not [one for one in made if isinstance(one, PauseJob)]


@pytest.mark.parametrize(
    ("demand", "reason"),
    [
        (Demand(gpus=3), "it needs 3 GPUs at once, and no machine of the pool has more than 2"),
        (Demand(vram_gb=80), "it needs 80 GiB on a GPU, and none of the pool has more than 24"),
        (Demand(kinds=("H100",)), "it needs H100, and the pool has L4"),
        (Demand(ram_gb=999), "no machine of the pool has all that it needs at once"),
    ],
)
def test_what_no_machine_can_hold_is_named_and_in_nobodys_way(demand, reason):
    gpus = tuple(PoolGpu(uuid=f"g{n}", vram_gb=24.0, kind="L4") for n in range(2))
    machines = [PoolMachine(name="host", gpus=gpus, ram_gb=64)]
    queue = [job("never", waited=99 * HOUR, demand=demand), job("other", seconds_left=99 * HOUR)]
    made = decide(queue, machines, [], [], NOW, Policy())
    assert [one.job for one in made if isinstance(one, StartJob)] == ["other"]
    assert [one.reason for one in made if isinstance(one, ExplainWait)] == [
        f"can never start here: {reason}"
    ]


@pytest.mark.parametrize(
    ("quota", "spent", "reason"),
    [
        (Quota(gpus=1), Spent(), "project p may have 1 GPUs at once, and has 1"),
        (Quota(gpu_hours=5), Spent(gpu_hours=5), "project p has used its 5 GPU hours"),
        (Quota(usd=5), Spent(usd=6), "project p has spent its 5 USD"),
    ],
)
def test_a_quota_holds_its_project_and_nobody_else(quota, spent, reason):
    policy = Policy(quotas={"p": quota}, spent={"p": spent})
    queue = [job("mine", waited=HOUR, project="p"), job("others", project="q")]
    made = decide(queue, one_machine(), [on("busy", "g0", project="p")], [], NOW, policy)
    assert [one.job for one in made if isinstance(one, StartJob)] == ["others"]
    assert [one.reason for one in made if isinstance(one, ExplainWait)] == [reason]


def test_a_share_counts_less_the_longer_ago_it_was_and_by_what_one_is_entitled_to():
    old = Stint(user="old", project="", gpus=1, began=NOW - 50 * HOUR, ended=NOW - 48 * HOUR)
    new = Stint(user="new", project="", gpus=1, began=NOW - 2 * HOUR, ended=NOW)
    found = shares([old, new], NOW, Policy(), lambda stint: stint.user)
    assert found["old"] / found["new"] == pytest.approx(1 / 4)  # two half-lives
    assert sum(found.values()) == pytest.approx(1)
    halved = shares([old, new], NOW, Policy(weights={"new": 2}), lambda stint: stint.user)
    assert halved["new"] == pytest.approx(found["new"] / 2)
