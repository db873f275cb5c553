"""Bringing a run's machine to its end, as far as it shows without a machine."""

from __future__ import annotations

import subprocess
import time
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blocks import uptime as clocks
from blocks.models import Instance, InstanceStatus, Offer
from blocks.workplaces.machine import MachineWorkplace
from flows import settling
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.streaming.training import RemoteTraining
from tests.faults import disk
from tests.flows.flow_runs import make_job
from tests.flows.sshd import over_ssh
from trainer.contract.errors import ConnectionLost, DiskFull

OFFER = Offer(provider="runpod", instance_type="L4", region="X", price_per_hour=1.0)
LEASE_SECONDS = 1800.0


@pytest.fixture
async def full(tmp_path):
    """Give a job directory on a machine over SSH, whose disk is full."""
    folder = tmp_path / "disk"
    try:
        disk.mount(folder, "8m")
    except subprocess.CalledProcessError:
        pytest.skip("needs root: it mounts a small disk")
    try:
        async with over_ssh(folder) as (machine, base):
            workplace = MachineWorkplace(machine, f"{base}/jobs/one", where="pod")
            await workplace.write("job.json", {})
            await workplace.write("status.json", {"state": "running", "step": 7})
            await workplace.replace("train.log", b"the last words\n")
            disk.fill(folder)
            yield workplace
    finally:
        disk.unmount(folder)


class Reached:
    """A provider whose machine is reached at a job directory."""

    def __init__(self, workplace: MachineWorkplace) -> None:
        self._workplace = workplace

    def workplace(self, instance, *, compress):
        return self._workplace


class OutOfReach:
    """A provider whose machine cannot be emptied."""

    def workplace(self, instance, *, compress):
        raise ConnectionLost(f"{instance.id} does not answer")


@pytest.fixture
def may_go():
    job, run = make_job(), RunFolder(uuid4())
    assert job.limits.lease_minutes * 60 == LEASE_SECONDS
    home = settling._Home(job, run, hurry=False)
    Journal.of(run).begin(OFFER, "runpod")

    async def may_go(provider=None) -> bool:
        journal = Journal.of(run)  # as the next pass of reconcile reads it
        [hire] = journal.hires
        machine = Instance(
            provider="runpod", id="pod", mark=hire.mark, status=InstanceStatus.RUNNING
        )
        return await settling._saved(
            home, journal, hire, machine, provider or OutOfReach(), "cancelled"
        )

    may_go.run = run
    return may_go


@pytest.mark.parametrize("hours", [2, -2])
async def test_a_machine_is_held_for_a_lease_whatever_the_clock_is_set_to(
    may_go, monkeypatch, hours
):
    assert not await may_go()

    clock = SimpleNamespace(
        time=lambda: time.time() + hours * 3600, clock_gettime=time.clock_gettime
    )
    for module in (clocks, settling):
        monkeypatch.setattr(module, "time", clock, raising=False)
    assert not await may_go()

    up = clocks.uptime()
    monkeypatch.setattr(clocks, "uptime", lambda: up + LEASE_SECONDS + 1)
    assert await may_go()


async def test_what_a_machine_holds_comes_home_though_its_disk_takes_no_request(full, may_go):
    run = may_go.run

    assert await may_go(Reached(full))

    assert run.log.read_bytes() == b"the last words\n"


async def test_a_training_that_a_full_disk_ended_says_so(full, monkeypatch):
    machine = Instance(provider="runpod", id="pod", mark=None, status=InstanceStatus.RUNNING)
    training = RemoteTraining(make_job(), machine, full, RunFolder(uuid4()), python="python3")

    async def ended() -> dict[str, str]:
        return {"state": "running"}

    async def start() -> bool:
        return False

    monkeypatch.setattr(training, "until_nobody_works", ended)
    monkeypatch.setattr(training, "start", start)

    with pytest.raises(DiskFull, match=r"The disk of pod is full: 0\.0 of 8 MiB are free"):
        await training.until_rest()
