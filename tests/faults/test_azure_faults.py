"""What Azure does to a training: evicted with notice and without, failed late, shut down and billed on."""

from __future__ import annotations

import pytest
from prefect import get_client

from flows.reconcile import reconcile_once
from gateway.control import ask_cancel
from tests.clouds.cloud import Fault
from tests.faults.scene import MEDIUM
from tests.waiting import until
from trainer.contract.errors import CapacityError
from trainer.contract.job_directory import JobState

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.parametrize("scene", ["azure"], indirect=True),
]
SPOT = {"gpu_count": 0, "cpu_threads": 1, "spot": True}
SHORT_LEASE = {"lease_minutes": 0.25, "stop_grace_seconds": 10}
ORDER = "/virtualMachines/[^/]+$"


async def nothing_is_left(scene):
    """Whether no card, address, disk or schedule is left after one reconcile."""
    await reconcile_once()
    return scene.cloud.alive() == [] == scene.cloud.left_over()


@pytest.mark.fault(27, "machine taken back")
@pytest.mark.parametrize("notice", [True, False], ids=["notice", "none"])
async def test_an_evicted_machine_is_replaced_and_its_last_checkpoint_gone_on_with(
    scene, survived, notice
):
    # With the notice, nothing but it would have saved anything by then.
    steps = {"save_steps": 100} if notice else {}
    run = await scene.run(scene.job(**MEDIUM | steps, resources=SPOT))
    if notice:
        await scene.at_step(run, 20)
    else:
        await scene.said(r"checkpoint-\d+ is home")
    [id] = scene.cloud.alive()

    scene.injected(run)
    if notice:
        scene.cloud.announce(id)
        await scene.said(r"checkpoint-\d+ is home")
    scene.cloud.evict(id)
    await scene.said(r"continuing from checkpoint-\d+")

    await survived(run)
    assert [hire.attempt for hire in scene.hires(run)] == [1, 2]
    assert all(hire.spot for hire in scene.hires(run))
    assert await nothing_is_left(scene)


@pytest.mark.fault(5, "create answered with an error and an id")
async def test_an_order_that_fails_late_and_one_without_an_answer_cost_no_training(scene, survived):
    scene.cloud.fails_late = ["AllocationFailed"]
    run = await scene.run(scene.job())
    scene.injected(run)
    await until(lambda: scene.cloud.all and scene.cloud.all[0].status == "Failed")
    scene.cloud.faults.add(Fault(kind="commit_then_drop", method="PUT", path=ORDER))

    await survived(run)

    first, second = scene.hires(run)
    assert first.cause.startswith(CapacityError.__name__)
    assert "AllocationFailed" in first.cause
    assert first.region != second.region
    assert len(scene.cloud.all) == 2
    assert scene.cloud.changed == []
    assert await nothing_is_left(scene)


@pytest.mark.fault(34, "lease expires")
async def test_a_machine_that_shut_itself_down_is_billed_until_azures_schedule_ends_it(
    scene, survived
):
    run = await scene.run(scene.job(max_steps=2000, limits=SHORT_LEASE))
    await scene.said(r"checkpoint-\d+ is home")
    [rented] = scene.cloud.all

    scene.kill()
    scene.injected(run, "lost|write_off|machine 2")
    await until(lambda: rented.status == "stopped", 90)
    assert rented.ended is None  # the bill goes on

    scene.cloud.clock_ahead = 600.0
    await until(lambda: rented.status == "deallocated")
    assert rented.ended is not None
    assert scene.cloud.alive() == [rented.id]  # its disk and its address

    scene.cloud.clock_ahead = 0.0
    scene.again(run)
    await scene.said(r"continuing from checkpoint-\d+")
    await scene.said("started the training")
    async with get_client() as client:
        await ask_cancel(client, await client.read_flow_run(run.id))
    await survived(run, JobState.STOPPED)
    assert len(scene.cloud.all) == 2
    assert await nothing_is_left(scene)
