"""What goes wrong with an allocation of Slurm, on a real cluster of one node."""

from __future__ import annotations

import asyncio
import signal

import pytest
from prefect.client.schemas.objects import FlowRun

from flows.run_folder import RunFolder
from tests.faults.scene import MEDIUM, Scene
from tests.waiting import until
from trainer.contract.events import Kind

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.parametrize("scene", ["slurm"], indirect=True),
]


async def trained_on(scene: Scene, run: FlowRun, survived) -> str:
    """Wait for the end, and return what the flow said after the loss of the first allocation."""
    await survived(run)
    assert [hire.attempt for hire in scene.hires(run)] == [1, 2]
    said = (scene.folder / "flow.log").read_text()
    assert "continuing from checkpoint-" in said
    return said


@pytest.mark.fault(135, "job cancelled by somebody else")
async def test_a_cancelled_job_saves_at_once_and_goes_on_in_the_next(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 20)

    scene.injected(run)
    scene.cloud.command("scancel", scene.cloud.alive()[0])

    await trained_on(scene, run, survived)
    # Nothing was due to be saved yet: the notice had it saved, and it was fetched after the end.
    assert Kind.NOTICE in RunFolder(run.id).events.read_text()


@pytest.mark.fault(136, "node drained, and down")
async def test_a_drained_node_goes_on_and_one_that_is_down_is_replaced(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    step = await scene.at_step(run, 20)
    scene.cloud.node("drain")
    assert await scene.at_step(run, step + 20)

    scene.injected(run)
    scene.cloud.node("down")
    await scene.said("machine 2: ")
    scene.cloud.node("resume")

    await trained_on(scene, run, survived)


@pytest.mark.fault(137, "job requeued")
async def test_a_job_that_is_put_back_into_the_queue_trains_in_another(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 20)
    [job] = scene.cloud.alive()
    scene.cloud.command("scontrol", "update", f"JobId={job}", "Requeue=1")

    scene.injected(run)
    scene.cloud.command("scontrol", "requeue", job)

    said = await trained_on(scene, run, survived)
    assert f"{job} was taken back" in said


@pytest.mark.fault(138, "controller restarted in the middle")
async def test_a_training_goes_on_while_the_controller_is_away(scene, survived):
    run = await scene.run(scene.job(**MEDIUM))
    step = await scene.at_step(run, 20)

    scene.injected(run)
    scene.cloud.end("slurmctld", signal.SIGKILL)
    await scene.at_step(run, step + 40)
    await asyncio.to_thread(scene.cloud.start_controller)

    await survived(run)
    assert [hire.attempt for hire in scene.hires(run)] == [1]


@pytest.mark.fault(139, "answer to the order lost")
async def test_an_order_without_an_answer_is_found_by_its_mark(scene, survived):
    scene.cloud.lose_answers(1)
    run = await scene.run(scene.job())

    scene.injected(run, "is queued|runs, and")

    await survived(run)
    assert [hire.instance_id for hire in scene.hires(run)] == ["1"]
    assert await until(lambda: scene.cloud.jobs()) == {"1": "CANCELLED"}
