"""Our own trouble, or that of an API, harms no job: what a run has is adopted, and waited for."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import AsyncIterator

import pytest

from flows.run_folder import RunFolder
from tests.clouds import runpod as runpod_cloud
from tests.clouds.cloud import Fault
from tests.clouds.proxy import Proxy
from tests.faults.scene import LONG, MEDIUM
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
AWAY = {
    "unreachable": Fault(kind="drop", times=math.inf),
    "silent": Fault(kind="silence", times=math.inf, seconds=60.0),
    "rate-limited": Fault(kind="status", status=429, times=math.inf),
    "rejecting": Fault(kind="status", status=401, times=math.inf),
}


@pytest.fixture
async def prefect_door(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """Give what is between the flow processes and Prefect."""
    server = int(os.environ["PREFECT_API_URL"].rpartition(":")[2].partition("/")[0])
    async with Proxy("127.0.0.1", server) as proxy:
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{proxy.port}/api")
        # Otherwise Prefect's own client bridges a minute, and each test has to wait for longer.
        monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "2")
        yield proxy


@pytest.mark.fault(46, "revival without the provider")
@pytest.mark.parametrize("how", AWAY)
async def test_a_training_is_attached_to_while_its_provider_is_away(scene, survived, how):
    run = await scene.run(scene.job(**LONG))
    await scene.at_step(run, 20)
    before = scene.directory(run).read_status()

    scene.kill()
    scene.cloud.faults.add(dataclasses.replace(AWAY[how]))
    scene.injected(run, "as it was when it was ready")
    scene.again(run)
    await scene.said("attached to the training")
    scene.cloud.faults.clear()

    assert scene.directory(run).read_status().trainer_pid == before.trainer_pid
    await survived(run)
    assert len(scene.cloud.account) == 1


@pytest.mark.fault(46, "revival without the provider")
async def test_a_run_crashes_when_what_it_hired_cannot_be_learned_and_goes_on_later(
    scene, survived
):
    scene.cloud.boot_seconds = 5.0
    run = await scene.run(scene.job(limits={"lease_minutes": 0.1}))
    await scene.said("is provisioning")
    scene.kill()

    scene.cloud.faults.add(dataclasses.replace(AWAY["unreachable"]))
    scene.injected(run, "is not known yet")
    assert scene.again(run).wait(120) == 1
    state = (await scene.read(run)).state
    assert state.is_crashed()
    assert str(state.message).startswith("ConnectionLost: ")
    assert len(scene.cloud.alive()) == 1

    scene.cloud.faults.clear()
    scene.again(run)
    await survived(run)
    assert len(scene.cloud.account) == 1


@pytest.mark.fault(47, "revival at a higher price")
async def test_a_machine_that_trains_is_not_priced_anew(scene, survived, monkeypatch):
    run = await scene.run(scene.job(**LONG, limits={"max_cost": 0.5}))
    await scene.at_step(run, 20)

    scene.kill()
    dearer = [dataclasses.replace(cpu, per_vcpu=1000 * cpu.per_vcpu) for cpu in runpod_cloud.CPUS]
    monkeypatch.setattr(runpod_cloud, "CPUS", dearer)
    scene.injected(run, "adopted")
    scene.again(run)

    await survived(run)
    assert len(scene.cloud.account) == 1
    assert scene.directory(run).read_status().attempt == 1


@pytest.mark.fault(48, "Prefect away at any moment")
@pytest.mark.parametrize(
    "words",
    [
        r"Beginning flow run",
        r"'provision-\w+' - Finished",
        r"'install-\w+' - Finished",
        r"started the training",
        r"'train-\w+' - Finished",
        r"'verify-\w+' - Finished",
    ],
)
async def test_a_run_goes_on_when_prefect_is_away_at_any_moment(
    scene, survived, prefect_door, words
):
    run = await scene.run(scene.job())
    await scene.said(words)

    scene.injected(run, "Prefect's API fails")
    prefect_door.refuse()
    prefect_door.cut()
    # The state waits for Prefect, and nothing else does.
    await until(lambda: RunFolder(run.id).report.exists() and not scene.cloud.alive())
    await scene.said("Prefect's API fails")
    prefect_door.accept()

    await survived(run)
    assert len(scene.cloud.account) == 1
    assert scene.directory(run).read_status().attempt == 1


@pytest.mark.fault(48, "Prefect away at any moment")
async def test_a_run_attaches_while_prefect_is_away(scene, survived, prefect_door):
    run = await scene.run(scene.job(**LONG))
    await scene.at_step(run, 20)
    scene.kill()
    scene.again(run)
    await scene.said("adopted")

    scene.injected(run, "Prefect's API fails")
    prefect_door.refuse()
    prefect_door.cut()
    await scene.said("attached to the training")
    step = scene.step(run)
    await scene.at_step(run, step + 20)
    prefect_door.accept()

    await survived(run)
    assert scene.directory(run).read_status().attempt == 1


@pytest.mark.fault(53, "Prefect away at the end")
@pytest.mark.parametrize("how", ["refuses", "is silent"])
async def test_a_machine_is_given_back_while_prefect_is_away(scene, survived, prefect_door, how):
    run = await scene.run(scene.job(**MEDIUM))
    await scene.at_step(run, 150)

    scene.injected(run, "Prefect's API fails", ends=True)
    if how == "refuses":
        prefect_door.refuse()
        prefect_door.cut()
    else:
        prefect_door.freeze()
    await until(lambda: not scene.cloud.alive())
    assert RunFolder(run.id).report.exists()
    prefect_door.accept()
    prefect_door.thaw()

    await survived(run)
    assert len(scene.cloud.account) == 1
