"""Several machines that train together begin, fail, and go on as one.

The machines and their supervisors are real; the trainer is `peer.py`, which takes a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from blocks.providers.ssh import SshHost
from flows.execute import create_run
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.streaming import gang as gang_module
from flows.streaming import training as training_module
from flows.streaming.checkpoint_mirror import CheckpointMirror
from flows.streaming.gang import GangTraining
from flows.streaming.nodes import Node
from flows.streaming.training import Lead, RemoteTraining
from tests.flows.flow_runs import make_job
from tests.flows.two_hosts import TwoHosts, two_hosts
from tests.waiting import until
from trainer.contract.errors import CodeError, ConfigError, OutOfMemory
from trainer.contract.job_directory import Desired, JobState
from trainer.contract.metrics import read_metrics

pytestmark = pytest.mark.usefixtures("prefect_api")
PEER = Path(__file__).with_name("peer.py")


@pytest.fixture
def hosts(tmp_path, monkeypatch):
    with two_hosts(tmp_path, monkeypatch) as hosts:
        yield hosts


@pytest.fixture
async def gang(hosts, monkeypatch):
    """Return a function that prepares a training of so many steps on both hosts."""

    async def prepare(steps: int, **limits: Any) -> GangTraining:
        def job_file(self: RemoteTraining, config: Any) -> dict[str, Any]:
            command = [sys.executable, str(PEER), self.workplace.folder, str(steps)]
            return {**job_file_of_ours(self, config), "command": command}

        monkeypatch.setattr(RemoteTraining, "job_file", job_file)
        job = make_job(per_device_train_batch_size=4)
        job = job.model_copy(
            update={"limits": job.limits.model_copy(update=limits), "provider": "ssh"}
        )
        run = RunFolder((await create_run(job)).id)
        journal, provider = Journal.of(run), SshHost()
        offers = provider.gang_offers(
            await provider.offers(job.resources, job.limits), len(hosts.machines)
        )
        nodes, last = [], None
        for rank, offer in enumerate(offers):
            last = journal.begin(offer, "ssh", beside=last)
            instance = await provider.launch(offer, last.mark, None)
            nodes.append(Node(rank, instance, sys.executable))
        workplace = await open_here.enter_async_context(provider.workplace(nodes[0].instance))
        mirror = CheckpointMirror(workplace, run.checkpoints)
        return GangTraining(job, workplace, run, nodes, provider, journal=journal, mirror=mirror)

    job_file_of_ours = RemoteTraining.job_file

    def silence(self: Lead, status: Any) -> None:
        """There is no flow run to tell of it."""

    monkeypatch.setattr(Lead, "running", silence)
    monkeypatch.setattr(training_module, "AWAY_SECONDS", 0.1)
    async with AsyncExitStack() as open_here:
        yield prepare


def steps_of(training: GangTraining, hosts: TwoHosts) -> list[int]:
    return sorted(read_metrics(hosts.directory(0).metrics)[0])


async def at_step(hosts: TwoHosts, step: int) -> None:
    await until(lambda: hosts.directory(0).read_status().step >= step)


async def test_both_train_to_the_end_and_their_logs_come_home(gang, hosts):
    training = await gang(10)

    await training.start_or_attach()
    facts = await training.until_rest()

    assert (facts["state"], facts["step"]) == (JobState.COMPLETED, 10)
    assert steps_of(training, hosts) == list(range(1, 11))
    world = [json.loads(hosts.directory(rank).job.read_text())["world"] for rank in (0, 1)]
    assert [one.pop("node_rank") for one in world] == [0, 1]
    assert world[0] == world[1]
    assert "rank 1 from 0" in (training._run.root / "nodes" / "1-1.log").read_text()
    assert not any(hosts.directory(rank).is_alive() for rank in (0, 1))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.thorough
async def test_when_one_is_killed_all_go_on_from_the_same_checkpoint(gang, hosts, rank):
    training = await gang(40)
    await training.start_or_attach()
    resting = asyncio.create_task(training.until_rest())
    await at_step(hosts, 12)

    (hosts.directory(rank).root / "fault").write_text("null")
    facts = await resting

    assert (facts["error"], facts["state"], facts["step"]) == (None, JobState.COMPLETED, 40)
    assert steps_of(training, hosts) == list(range(1, 41))
    begun = [hosts.directory(n).log.read_text().split()[-4] for n in (0, 1)]
    assert begun[0] == begun[1]
    assert int(begun[0]) >= 10
    assert training._journal.hires[0].retries == {"restarts": 1}


@pytest.mark.thorough
async def test_the_limits_count_for_all_and_the_machine_that_failed_is_named(gang, hosts):
    training = await gang(10_000, max_restarts=0)
    await training.start_or_attach()
    resting = asyncio.create_task(training.until_rest())
    await at_step(hosts, 2)

    (hosts.directory(1).root / "fault").write_text("null")
    facts = await resting

    assert (facts["state"], facts["error"]["class"]) == (JobState.FAILED, "TrainerKilled")
    assert facts["error"]["message"].startswith("Machine 1 (")
    assert facts["error"]["suggestion"].endswith("nodes/1-1.log")
    assert not any(hosts.directory(rank).is_alive() for rank in (0, 1))


@pytest.mark.thorough
async def test_an_error_that_nothing_helps_against_ends_the_job_everywhere(gang, hosts):
    training = await gang(10_000)
    await training.start_or_attach()
    resting = asyncio.create_task(training.until_rest())
    await at_step(hosts, 2)

    error = CodeError("callbacks: own.py, line 3.")
    (hosts.directory(1).root / "fault").write_text(json.dumps(error.to_dict()))
    facts = await resting

    assert (facts["state"], facts["error"]["class"]) == (JobState.FAILED, "CodeError")
    assert training._journal.hires[0].retries == {}


@pytest.mark.thorough
async def test_when_memory_runs_out_on_one_all_get_smaller_batches(gang, hosts):
    training = await gang(30)
    await training.start_or_attach()
    resting = asyncio.create_task(training.until_rest())
    await at_step(hosts, 2)

    error = OutOfMemory("Memory ran out.")
    (hosts.directory(1).root / "fault").write_text(json.dumps(error.to_dict()))
    facts = await resting

    assert facts["state"] == JobState.COMPLETED
    assert "with divisor 2" in hosts.directory(0).log.read_text()
    assert "with divisor 2" in hosts.directory(1).log.read_text()
    assert training._journal.hires[0].retries == {"batch_divisor": 2}


@pytest.mark.thorough
async def test_a_pause_on_the_first_brings_all_to_rest_and_they_go_on_together(gang, hosts):
    training = await gang(60)
    await training.start_or_attach()
    resting = asyncio.create_task(training.until_rest())
    await at_step(hosts, 3)

    await training.ask(Desired.PAUSE, "paused")
    facts = await resting

    assert (facts["state"], facts["reason"]) == (JobState.PAUSED, "paused")
    assert not any(hosts.directory(rank).is_alive() for rank in (0, 1))

    await training.start_or_attach()
    facts = await training.until_rest()

    assert (facts["state"], facts["step"]) == (JobState.COMPLETED, 60)
    assert steps_of(training, hosts) == list(range(1, 61))


@pytest.mark.thorough
async def test_a_new_process_attaches_to_what_is_at_work_on_all_and_restarts_what_is_not(
    gang, hosts
):
    training = await gang(10_000)
    await training.start_or_attach()
    await at_step(hosts, 6)

    await training.start_or_attach()
    assert [hosts.directory(rank).read_status().attempt for rank in (0, 1)] == [1, 1]

    os.kill(hosts.directory(1).read_status().pid, signal.SIGKILL)
    os.kill(hosts.directory(1).read_status().trainer_pid, signal.SIGKILL)
    await until(lambda: not hosts.directory(1).is_alive())
    await training.start_or_attach()

    assert [hosts.directory(rank).read_status().attempt for rank in (0, 1)] == [2, 2]
    assert all(hosts.directory(rank).is_alive() for rank in (0, 1))


@pytest.mark.thorough
async def test_a_machine_that_cannot_reach_the_first_is_told_before_training(gang, monkeypatch):
    monkeypatch.setattr(Node, "address", "192.0.2.1")  # of nobody
    monkeypatch.setattr(gang_module, "MEET_SECONDS", 0.5)
    training = await gang(10)

    with pytest.raises(ConfigError, match=r"does not reach the first at 192\.0\.2\.1, port \d+"):
        await training.start_or_attach()
