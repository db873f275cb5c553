"""What the policy of a pool promises, on small pools by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest

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
from flows.scheduling.ranking import shares
from trainer.contract.errors import ConfigError

NOW = 1_000_000.0


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


def test_who_was_paused_for_another_starts_after_it_however_little_it_still_takes():
    """What is left of it is measured only now, and would let it take its GPU back at once."""
    urgent = job("urgent", priority=100)
    paused = job("paused", priority=50, seconds_left=5, paused_for="urgent")
    lesser = job("lesser", priority=20, seconds_left=5, paused_for="paused")
    queue = [lesser, paused, urgent]
    assert starts(queue, one_machine(3), [], [], NOW, Policy()) == ["urgent", "paused", "lesser"]
    assert starts(queue[:2], one_machine(2), [], [], NOW, Policy()) == ["paused", "lesser"]


@pytest.mark.parametrize(
    "paused",
    [
        job("paused", priority=99, seconds_left=5, paused_for="other"),
        job("paused", waited=90 * HOUR, seconds_left=5, paused_for="other"),
        job("paused", seconds_left=5, paused_for="gone"),
    ],
    ids=["has become as urgent itself", "has waited too long", "that one is gone"],
)
def test_who_was_paused_for_another_does_not_stay_behind_it_for_ever(paused):
    queue = [job("other", priority=90), paused]
    assert starts(queue, one_machine(1), [], [], NOW, Policy()) == ["paused"]


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
    assert why["whole"].reason == "is next, and waits for 2 GPUs of one machine"
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


def test_where_only_so_many_may_run_an_urgent_job_takes_the_place_of_a_lesser_one():
    running = [on("a", "g0", priority=20), on("b", "g1", priority=90)]
    queue = [job("urgent", priority=95), job("late", priority=20)]
    made = decide(queue, one_machine(4), running, [], NOW, Policy(max_jobs=2))
    assert made[0] == PauseJob(job="a", whom="urgent")
    assert {one.reason for one in made[1:]} == {"the pool runs 2 jobs at most"}
    running[0] = dataclasses.replace(running[0], pausing=True)
    made = decide(queue, one_machine(4), running, [], NOW, Policy(max_jobs=2))
    assert not [one for one in made if isinstance(one, PauseJob)]


def test_where_only_so_many_may_run_nobody_is_paused_beside_one_that_is_pausing():
    machines = [*one_machine(1), PoolMachine(name="other", gpus=(PoolGpu(uuid="o", vram_gb=24.0),))]
    leaving = dataclasses.replace(on("a", "o", priority=20), machine="other", pausing=True)
    running = [leaving, on("b", "g0", priority=20)]
    made = decide([job("urgent", priority=90)], machines, running, [], NOW, Policy(max_jobs=2))
    assert not [one for one in made if isinstance(one, PauseJob)]


def test_a_gpu_that_somebody_else_has_is_waited_for_and_named():
    [host] = one_machine(2)
    gpus = (host.gpus[0], dataclasses.replace(host.gpus[1], taken="taken by bob"))
    machines = [dataclasses.replace(host, gpus=gpus)]
    queue = [job("both", waited=HOUR, gpus=2), job("one")]
    made = decide(queue, machines, [], [], NOW, Policy(strategy=Strategy.FIFO))
    assert made[0] == StartJob(job="one", machine="host", gpus=("g0",))
    assert [one.reason for one in made if isinstance(one, ExplainWait)] == [
        "is next, and waits for 2 GPUs of one machine; g1 of host is taken by bob"
    ]


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
        (
            Demand(ram_gb=999),
            "it needs 999 GiB of main memory, and no machine of the pool has more than 64",
        ),
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


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"ageing": 0.0}, "ageing = 0"),
        ({"half_life": -1.0}, "half_life = -1"),
        ({"half_life": math.nan}, "half_life = nan"),
        ({"weights": {"ada": 0.0}}, "weights: ada = 0"),
    ],
)
def test_what_a_policy_would_divide_by_is_above_0(settings, name):
    with pytest.raises(ConfigError, match=f"{name}: must be above 0"):
        Policy(**settings)
