"""Bringing a run's machine to its end, as far as it shows without a machine."""

from __future__ import annotations

import time
from types import SimpleNamespace
from uuid import uuid4

import pytest

from blocks import uptime as clocks
from blocks.models import Instance, InstanceStatus, Offer
from flows import settling
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from tests.flows.flow_runs import make_job
from trainer.contract.errors import ConnectionLost

OFFER = Offer(provider="runpod", instance_type="L4", region="X", price_per_hour=1.0)
LEASE_SECONDS = 1800.0


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

    async def may_go() -> bool:
        journal = Journal.of(run)  # as the next pass of reconcile reads it
        [hire] = journal.hires
        machine = Instance(
            provider="runpod", id="pod", mark=hire.mark, status=InstanceStatus.RUNNING
        )
        return await settling._saved(home, journal, hire, machine, OutOfReach(), "cancelled")

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
