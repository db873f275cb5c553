"""What may become of a worker that executes many runs: real processes, killed at random moments."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import psutil
import pytest

from blocks.home import runs
from flows.scheduling.preempting import preempt
from tests.deployments.training_site import TrainingSite, training_site
from tests.flows.flow_runs import Job
from tests.pretended_gpus import PretendedGpus
from tests.waiting import until
from trainer.contract.checkpoints import all_checkpoints
from trainer.contract.gpu_locks import holders

KILLS = int(os.environ.get("WORKER_KILLS", "3"))
AWAY_SECONDS = float(os.environ.get("PREFECT_AWAY_SECONDS", "8"))
MOVES_WITHIN = 30.0  # seconds, on a computer that has nothing else to do
STEPS = 60
LONG = 150  # steps, of a tenth of a second each: longer than a worker takes to start
ALONE = """
import fcntl, os, sys
for uuid in filter(None, os.environ["CUDA_VISIBLE_DEVICES"].split(",")):
    mine = open(os.path.join(TOGETHER, uuid), "w")
    try: fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError: print("TWO ON ONE GPU", flush=True)
    globals()["held_" + uuid] = mine
"""
"""Put before the stand-in: it says so when another has its GPU."""


@pytest.fixture
async def site(prefect_api: str) -> AsyncIterator[TrainingSite]:
    async with training_site() as made:
        yield made


def alone(folder: Path, together: Path) -> None:
    """Let the stand-in in a folder look out for others on its GPU, whose files are `together`."""
    script = folder / "my_train.py"
    script.write_text(ALONE.replace("TOGETHER", repr(str(together))) + script.read_text())


async def jobs(site: TrainingSite, folder: Path, count: int, *more: object) -> list[UUID]:
    """Submit jobs of a GPU each, with more arguments of the stand-in."""
    made = []
    for number in range(count):
        own = folder / f"job{number}"
        own.mkdir()
        words = ("--steps", STEPS, "--pace", 0.1, "--save", 10, *more)
        made.append(await site.submit(own, *words, **resources()))
        alone(own, folder)
    return made


async def held(site: TrainingSite, folder: Path, hold: int, *words: object) -> UUID:
    """Submit a job of a GPU that stays at a step until it is asked to pause, or the file `go` is there.

    So it does not end, however long the next worker takes to start.
    """
    more = ("--hold", hold, "--go", folder / "go", "--save", 5)
    id = await site.submit(folder, *words, *more, **resources())
    alone(folder, folder)
    return id


def resources() -> dict[str, object]:
    return {"resources": {"gpu_count": 1, "cpu_threads": 1}}


def steps(id: UUID) -> list[int]:
    """Return the steps in the log of a run, in their order."""
    text = (runs() / str(id) / "train.log").read_text()
    assert "TWO ON ONE GPU" not in text
    return [int(found) for found in re.findall(r"^step (\d+)/", text, re.MULTILINE)]


async def all_completed(site: TrainingSite, ids: list[UUID], seconds: float = 300.0) -> None:
    for id in ids:
        ended = await until(
            lambda id=id: site.is_named(id, "Completed", "Failed", "Crashed", "Stopped"), seconds
        )
        assert ended.is_completed(), ended.message


def note(**seconds: float) -> None:
    """Write what took how long into the file that WORKER_FIGURES names."""
    if file := os.environ.get("WORKER_FIGURES"):
        with Path(file).open("a") as stream:
            stream.write(f"{json.dumps(seconds)}\n")


def nobody_has(uuids: list[str]) -> bool:
    return not any(holders(uuid) for uuid in uuids)


def moves(log: Path) -> int:
    """Return how often a worker has started a training or attached to one."""
    return len(re.findall(r"(started|attached to) the training", log.read_text()))


@pytest.mark.thorough
@pytest.mark.fault(120, "worker killed at random moments")
async def test_a_worker_that_is_killed_again_and_again_loses_and_doubles_nothing(
    site: TrainingSite,
    tmp_path: Path,
    pretended_gpus: PretendedGpus,
):
    chance = random.Random(0)  # noqa: S311 - no secret
    uuids = pretended_gpus.set_up(4)
    log = tmp_path / "worker.log"
    ids = await jobs(site, tmp_path, 8)
    idle = [0.0]
    for _ in range(KILLS):
        before, since = moves(log) if log.exists() else 0, time.monotonic()
        with site.worker(log) as worker:
            await until(lambda before=before: moves(log) > before or _over(ids))
            idle.append(time.monotonic() - since)
            await asyncio.sleep(chance.uniform(0, 2))
            worker.kill()
    with site.worker(log):
        await all_completed(site, ids)

    assert {id: steps(id) for id in ids} == {id: list(range(1, STEPS + 1)) for id in ids}
    assert await until(lambda: nobody_has(uuids))
    note(longest_until_a_training_moves=max(idle))
    assert max(idle) < MOVES_WITHIN * max(1.0, os.getloadavg()[0] / 2)


def _over(ids: list[UUID]) -> bool:
    return all((runs() / str(id) / "report.json").exists() for id in ids)


@pytest.mark.thorough
@pytest.mark.fault(121, "SIGTERM of the worker")
async def test_trainings_go_on_when_the_worker_is_asked_to_end_and_the_next_one_attaches(
    site: TrainingSite, home: Path, tmp_path: Path, pretended_gpus: PretendedGpus
):
    pretended_gpus.set_up(1)
    log = tmp_path / "worker.log"
    first = await held(site, tmp_path, LONG - 10, "--steps", LONG, "--pace", 0.1)
    with site.worker(log) as worker:
        await Job(home, first).at_step(3)
        worker.send_signal(signal.SIGTERM)
        code = await asyncio.to_thread(worker.wait, 60)
    reached, state = Job(home, first).status().step, await site.state(first)
    await Job(home, first).at_step(reached + 1)  # with nobody who follows it
    before = moves(log)
    with site.worker(log):
        await until(lambda: moves(log) > before)
        (tmp_path / "go").touch()
        await all_completed(site, [first])

    assert (code, state.type) == (0, "RUNNING")
    assert steps(first) == list(range(1, LONG + 1))
    assert "attached to the training" in log.read_text()


@pytest.mark.thorough
@pytest.mark.fault(122, "two workers of one pool")
async def test_the_second_worker_of_a_pool_takes_over_when_the_first_is_killed(
    site: TrainingSite, home: Path, tmp_path: Path, pretended_gpus: PretendedGpus
):
    uuids = pretended_gpus.set_up(1)
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    id = await held(site, tmp_path, 8, "--steps", 12)
    with site.worker(logs[0]) as first:
        await Job(home, id).at_step(3)
        with site.worker(logs[1]):
            await until(lambda: "standing by" in logs[1].read_text())
            first.kill()
            await until(lambda: moves(logs[1]))
            (tmp_path / "go").touch()
            await all_completed(site, [id])

    assert steps(id) == list(range(1, 13))
    assert "attached to the training" in logs[1].read_text()
    assert await until(lambda: nobody_has(uuids))


@pytest.mark.thorough
@pytest.mark.fault(123, "Prefect away under a worker")
async def test_trainings_go_on_while_prefect_is_away_and_the_queue_moves_on_afterwards(
    site: TrainingSite,
    home: Path,
    tmp_path: Path,
    pretended_gpus: PretendedGpus,
    prefect_api: str,
):
    pretended_gpus.set_up(1)
    log = tmp_path / "worker.log"
    [first, waits] = await jobs(site, tmp_path, 2)
    port = int(prefect_api.rsplit(":", 1)[1].split("/")[0])
    [server] = {
        one.pid
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port == port
    }
    with site.worker(log) as worker:
        await Job(home, first).at_step(3)
        await until(lambda: site.is_named(waits, "Queued"))
        os.kill(server, signal.SIGSTOP)
        try:
            reached = Job(home, first).status().step
            await asyncio.sleep(AWAY_SECONDS)
            # By its log: its job directory is gone once it has completed.
            assert steps(first)[-1] > reached
        finally:
            os.kill(server, signal.SIGCONT)
        back, first_left = time.monotonic(), 0.1 * (STEPS - Job(home, first).status().step)
        await all_completed(site, [first])
        await Job(home, waits).at_step(1)
        moved = time.monotonic() - back
        await all_completed(site, [waits])
        assert worker.poll() is None

    assert steps(first) == steps(waits) == list(range(1, STEPS + 1))
    note(next_job_began_after=moved)
    assert moved < first_left + MOVES_WITHIN * max(1.0, os.getloadavg()[0] / 2)


@pytest.mark.thorough
@pytest.mark.fault(124, "worker killed while a job pauses for another")
async def test_a_job_that_pauses_for_another_is_queued_again_whoever_dies(
    site: TrainingSite, home: Path, tmp_path: Path, pretended_gpus: PretendedGpus
):
    uuids = pretended_gpus.set_up(1)
    log = tmp_path / "worker.log"
    first = await held(site, tmp_path, 8, "--steps", 12)
    with site.worker(log) as worker:
        await Job(home, first).at_step(7)
        (tmp_path / "urgent").mkdir()
        urgent = await site.submit(tmp_path / "urgent", "--steps", 5, priority=100, **resources())
        await until(lambda: site.is_named(urgent, "Queued"))
        assert await preempt(site.client, first, str(urgent))
        worker.kill()
    with site.worker(log):
        await all_completed(site, [urgent, first])

    states = await site.client.read_flow_run_states(first)
    [again] = [s for s in states if s.name == "Queued" and "paused for job" in str(s.message)]
    taken = [s.timestamp for s in states if s.is_pending() and s.timestamp > again.timestamp]
    ended = await site.state(urgent)
    assert ended.timestamp < min(taken), "the urgent job came last"
    assert steps(first) == list(range(1, 13))
    assert "resumed at" in (runs() / str(first) / "train.log").read_text()
    assert await until(lambda: nobody_has(uuids))


@pytest.mark.thorough
@pytest.mark.fault(150, "run deleted in Prefect")
async def test_a_training_whose_run_is_deleted_saves_and_lets_its_gpu_go(
    site: TrainingSite, home: Path, tmp_path: Path, pretended_gpus: PretendedGpus
):
    uuids = pretended_gpus.set_up(1)
    first = await held(site, tmp_path, 8, "--steps", 12)
    (tmp_path / "next").mkdir()
    with site.worker(tmp_path / "worker.log"):
        await Job(home, first).at_step(8)
        waits = await site.submit(tmp_path / "next", "--steps", 5, **resources())
        await until(lambda: site.is_named(waits, "Queued"))
        await site.client.delete_flow_run(first)
        await all_completed(site, [waits])

    status = Job(home, first).status()
    assert (status.state, status.reason) == ("stopped", "its run was deleted in Prefect")
    assert all_checkpoints(Job(home, first).directory.checkpoints)
    assert "deleted in Prefect" in (tmp_path / "worker.log").read_text()
    assert await until(lambda: nobody_has(uuids))


@pytest.mark.thorough
@pytest.mark.fault(151, "all processes killed at once")
async def test_jobs_go_on_from_their_checkpoints_after_a_reboot(
    site: TrainingSite, home: Path, tmp_path: Path, pretended_gpus: PretendedGpus
):
    uuids = pretended_gpus.set_up(2)
    log = tmp_path / "worker.log"
    go = tmp_path / "go"
    ids = await jobs(site, tmp_path, 3, "--hold", 15, "--go", go)
    with site.worker(log) as worker:
        await until(lambda: sum(Job(home, id).status().step == 15 for id in ids) == 2)
        trained = [id for id in ids if Job(home, id).status().step]
        kill([worker.pid, *at_work(home)])
    go.touch()
    since, before = time.monotonic(), moves(log)
    with site.worker(log):
        await until(lambda: moves(log) > before)
        moved = time.monotonic() - since
        await all_completed(site, ids)

    for id in ids:
        assert sorted(set(steps(id))) == list(range(1, STEPS + 1))
        said = (runs() / str(id) / "train.log").read_text()
        assert ("resumed at 10" in said) is (id in trained)
    assert await until(lambda: nobody_has(uuids))
    note(reboot_until_a_training_moves=moved)
    assert moved < MOVES_WITHIN * max(1.0, os.getloadavg()[0] / 2)


def at_work(home: Path) -> list[int]:
    """Return the supervisors and trainers of the jobs of a home."""
    found = psutil.process_iter(["cmdline"])
    return [one.pid for one in found if str(home) in " ".join(one.info["cmdline"] or ())]


def kill(pids: list[int]) -> None:
    """Kill processes as if at once: none sees another go."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
