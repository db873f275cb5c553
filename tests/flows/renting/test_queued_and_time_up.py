"""An order that waits for others is not booting, and an end that was announced is no loss."""

from __future__ import annotations

import time
from collections.abc import Callable
from uuid import uuid4

import pytest

from blocks.models import Instance, InstanceStatus, Offer
from blocks.providers.local import Local
from flows.renting import booting, liveness, writing_off
from flows.renting.journal import Journal
from flows.renting.writing_off import write_off
from flows.run_folder import RunFolder
from trainer.config import TrainingJob
from trainer.contract.errors import BootError, CapacityError, MachineLost, TimeUp

OFFER = Offer(provider="local", instance_type="CPU", region="main", price_per_hour=3600.0)


@pytest.fixture
def saying(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Local]:
    """Give a provider that answers one after the other, and the last one for ever."""

    def made(*answers: Instance) -> Local:
        left = list(answers)

        async def describe(self: Local, id: str) -> Instance:
            return left.pop(0) if len(left) > 1 else left[0]

        monkeypatch.setattr(Local, "describe", describe)
        return Local()

    return made


def instance(status: InstanceStatus, **facts) -> Instance:
    return Instance(provider="local", id="7", mark=None, status=status, address="node1", **facts)


@pytest.fixture
def hire(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(booting, "LOOK_SECONDS", 0.01)
    made = Journal.of(RunFolder(uuid4())).begin(OFFER, "local")
    made.order()
    return made


async def test_waiting_in_a_queue_is_no_boot_and_is_not_billed(hire, saying):
    waits = instance(InstanceStatus.QUEUED, detail="Priority")
    provider = saying(*[waits] * 20, instance(InstanceStatus.RUNNING))
    began = time.monotonic()

    running, _ = await booting._running(provider, hire, waits, began, 0.0005)

    waited = time.monotonic() - began
    assert running.status is InstanceStatus.RUNNING
    assert waited > 0.2
    assert hire.seconds() < waited / 2


async def test_once_it_is_out_of_the_queue_its_time_to_boot_runs(hire, saying):
    waits = instance(InstanceStatus.QUEUED)
    provider = saying(waits, instance(InstanceStatus.PROVISIONING))

    with pytest.raises(BootError, match="was not running after"):
        await booting._running(provider, hire, waits, 0.0, 0.0005)


async def test_an_order_that_can_never_start_is_given_up_in_the_queue(hire, saying):
    never = instance(InstanceStatus.QUEUED, failure=CapacityError("never"))

    with pytest.raises(CapacityError, match="never"):
        await booting._running(saying(never), hire, never, 0.0, 1.0)


async def test_an_announced_end_counts_as_a_loss_only_when_nothing_was_saved_meanwhile(monkeypatch):
    steps = iter([10, 20, 20, 20])
    monkeypatch.setattr(writing_off, "_saved_step", lambda run: next(steps))
    job = TrainingJob.model_validate({"name": "j", "training": {"model": "m", "dataset": "d"}})
    run, lost = RunFolder(uuid4()), []

    for kind in (TimeUp, TimeUp, TimeUp, MachineLost):
        await write_off(job, run, instance(InstanceStatus.GONE), kind("it ended"))
        lost.append(Journal.of(run).lost_machines)

    assert lost == [0, 0, 1, 2]


def test_whose_time_was_up_is_known_by_the_provider():
    over = liveness._lost(
        instance(InstanceStatus.RUNNING), instance(InstanceStatus.GONE, time_is_up=True)
    )
    taken = liveness._lost(instance(InstanceStatus.RUNNING), instance(InstanceStatus.GONE))

    assert (type(over), type(taken)) == (TimeUp, MachineLost)
