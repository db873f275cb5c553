"""What Google Cloud does to a training: taken back with notice, failed late, shut down, unanswered."""

from __future__ import annotations

import pytest

from tests.clouds.cloud import Fault
from tests.clouds.gcp_refusals import sold_out
from tests.faults.scene import MEDIUM
from tests.waiting import until
from trainer.contract.errors import CapacityError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.parametrize("scene", ["gcp"], indirect=True),
]
SPOT = {"gpu_count": 0, "cpu_threads": 1, "spot": True}
INSERT = "/zones/[^/]+/instances$"


def kept_to_the_document(scene):
    return scene.cloud.contract.checked > 10 and scene.cloud.contract.violations == []


@pytest.mark.fault(27, "machine taken back")
async def test_what_was_trained_until_the_notice_is_saved_and_gone_on_with(scene, survived):
    # Without the notice nothing would be saved by then.
    run = await scene.run(scene.job(**MEDIUM | {"save_steps": 100}, resources=SPOT))
    await scene.at_step(run, 20)
    [id] = scene.cloud.alive()

    scene.injected(run)
    scene.cloud.notice(id)
    await scene.said(r"checkpoint-\d+ is home")
    scene.cloud.preempt(id)
    await scene.said(r"continuing from checkpoint-\d+")

    await survived(run)
    assert [hire.attempt for hire in scene.hires(run)] == [1, 2]
    assert all(hire.spot for hire in scene.hires(run))
    assert kept_to_the_document(scene)


@pytest.mark.fault(5, "create answered with an error and an id")
async def test_an_order_that_fails_late_and_one_without_an_answer_cost_no_training(scene, survived):
    cloud = scene.cloud
    cloud.operation_seconds, cloud.leaves = 6.0, True
    cloud.late = [sold_out("us-central1-a", "e2-standard-4", "us-central1-f")]
    run = await scene.run(scene.job())
    scene.injected(run)
    await until(lambda: cloud.all and cloud.all[0].status == cloud.lost_word)
    cloud.operation_seconds = 0.1
    cloud.faults.add(Fault(kind="commit_then_drop", method="POST", path=INSERT))

    await survived(run)

    first, second = scene.hires(run)
    assert first.cause.startswith(CapacityError.__name__)
    assert second.instance_id.startswith("us-central1-f/")  # which the error named
    assert len(cloud.all) == 2
    assert cloud.alive() == []  # the stopped machine's disk too
    assert kept_to_the_document(scene)


@pytest.mark.fault(11, "instance deleted by somebody else")
async def test_a_machine_that_is_shut_down_from_inside_is_replaced_and_its_disk_goes(
    scene, survived
):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.said(r"checkpoint-\d+ is home")
    [id] = scene.cloud.alive()

    scene.injected(run)
    (scene.cloud.folder / id / "off").touch()  # as its fake poweroff does

    await survived(run)
    assert scene.cloud.account[id].gone  # with its disk
    first, second = scene.hires(run)
    assert (first.instance_id, second.attempt) == (id, 2)
    assert "it shut itself down" in first.cause
    assert kept_to_the_document(scene)
