from __future__ import annotations

import json
from pathlib import Path

import pytest

from blocks.allotted import allotted
from blocks.providers.local import Local
from flows.renting import turns
from flows.renting.other_gpus import (
    allocation_of,
    has_what_was_allotted,
    on_other_gpus,
    refuse_sick,
)
from tests.blocks.providers.rented_account import mark
from tests.flows.flow_runs import make_job
from trainer.config import Limits, Resources
from trainer.contract.errors import GpuSick, GpusTaken, TrainingFailed
from trainer.contract.gpu_locks import Allocation, Holder, take

TAKEN = GpusTaken("GPU-0 is taken by another.")


@pytest.fixture
async def instance(pretended_gpus):
    pretended_gpus.set_up(3)
    offer = (await Local().offers(Resources(gpu_count=1), Limits()))[0]
    return await Local().launch(offer, mark(), None)


def on_gpus(count=1):
    job = make_job()
    return job.model_copy(update={"resources": Resources(gpu_count=count)})


async def test_a_job_whose_gpu_was_taken_gets_another_in_the_same_folder(instance):
    assert instance.gpu_ids == ("GPU-0",)

    with take(Allocation(uuids=("GPU-0",)), Holder.here(name="another")):
        found = await on_other_gpus(on_gpus(), instance, TAKEN)

    assert (found.gpu_ids, found.workspace) == (("GPU-1",), instance.workspace)
    assert await Local().find(mark()) == found


async def test_a_job_has_the_share_that_its_worker_gave_to_it(instance):
    token = allotted.set(Allocation(uuids=("GPU-2",), share_gb=10, vram_gb=24))
    try:
        assert not has_what_was_allotted(instance)
        found = await on_other_gpus(on_gpus(), instance, None)
        assert has_what_was_allotted(found)
        assert allocation_of(found).share_gb == 10
        assert allocation_of(instance).share_gb is None  # it is another GPU that is shared
    finally:
        allotted.reset(token)


async def test_without_a_gpu_that_will_do_the_job_fails_with_the_reason(instance, pretended_gpus):
    for number in range(3):
        pretended_gpus.change(f"GPU-{number}", sick="it is lost")

    with pytest.raises(TrainingFailed, match="out of use: it is lost"):
        await on_other_gpus(on_gpus(), instance, TAKEN)


def test_only_a_training_that_ended_by_its_gpu_moves_on():
    refuse_sick({"state": "failed", "error": {"class": "TrainingFailed", "message": "no"}})
    refuse_sick({"state": "completed", "error": None})
    with pytest.raises(GpuSick, match="Xid 79"):
        refuse_sick({"state": "failed", "error": GpuSick("GPU-0: Xid 79").to_dict()})


def test_the_record_of_the_folder_stays_whole(instance):
    record = json.loads((Path(instance.workspace) / "instance.json").read_text())

    assert record["gpu_ids"] == ["GPU-0"]


async def test_a_run_whose_given_gpu_another_keeps_takes_any_other(instance, monkeypatch):
    monkeypatch.setattr(turns, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(turns, "PATIENCE_SECONDS", 0.05)
    token = allotted.set(Allocation(uuids=("GPU-2",)))
    try:
        with take(Allocation(uuids=("GPU-2", "GPU-0")), Holder.here(name="another")):
            found = await on_other_gpus(on_gpus(), instance, None)
    finally:
        allotted.reset(token)

    assert found.gpu_ids == ("GPU-1",)
