"""What the providers' documents say, and what orders, bodies and patience follow from it."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace

import pytest

from blocks.providers import runpod, vast
from blocks.providers.runpod import RunPod
from blocks.registry import load_provider
from tests.clouds import runpod as runpod_cloud
from tests.clouds.cloud import Fault
from tests.faults.api.api_trouble import EVERYWHERE
from tests.processes import command_lines
from trainer.config import Limits, Resources
from trainer.contract.errors import BootError, CapacityError, CredentialsError

RTX_4090 = "NVIDIA GeForce RTX 4090"

# 65: every read has a pace.


@pytest.mark.thorough
@pytest.mark.fault(65, "50 launches, a rate limit")
@EVERYWHERE
async def test_a_machine_that_is_missing_from_the_list_is_not_asked_for_at_every_look(scene, hunt):
    instance = await hunt.machine()
    provider = await load_provider(instance.provider)
    scene.cloud.list_lag = math.inf
    for name in ("pods", "instances"):
        provider._api().forget(name)
    await provider.find(instance.mark)  # it asks anew, and lists of before count no more
    asked = len(scene.cloud.requests)

    for _ in range(20):  # as often as a machine that boots is looked at, in five of ten seconds
        assert (await provider.describe(instance.id)).status.is_billing
        await asyncio.sleep(0.05)

    name = instance.id.rpartition("/")[2]
    direct = [r for r in scene.cloud.requests[asked:] if name in r.path]
    assert 1 <= len(direct) <= 3
    scene.cloud.list_lag = 0.0
    await asyncio.sleep(max(runpod.LIST_SECONDS, vast.INSTANCES_SECONDS))
    await hunt.over()


# 67: what is asked, ordered and waited for.


@pytest.fixture
def one_gpu_per_host(monkeypatch):
    kinds = [replace(gpu, most=1) if gpu.id == RTX_4090 else gpu for gpu in runpod_cloud.GPUS]
    monkeypatch.setattr(runpod_cloud, "GPUS", kinds)


@pytest.mark.fault(67, "as the documents say")
async def test_a_pair_of_gpus_is_offered_only_where_a_pair_can_be_had(scene, one_gpu_per_host):
    pair = Resources(gpu_count=2, gpu_types=["RTX 4090", "A5000", "L40S"])

    offers = await RunPod().offers(pair, Limits())
    [catalog] = [r for r in scene.cloud.requests if r.path == "/v2/catalog/gpus"]

    assert "count=2" in catalog.query
    assert {offer.gpu_type for offer in offers} == {"NVIDIA L40S"}
    with pytest.raises(CapacityError):
        await RunPod().offers(pair.model_copy(update={"gpu_types": ["RTX 4090"]}), Limits())


@pytest.mark.fault(67, "as the documents say")
async def test_a_pod_without_gpu_is_ordered_where_there_are_some(scene, hunt, monkeypatch):
    monkeypatch.setattr(RunPod.model_fields["cloud"], "default", "COMMUNITY")
    RunPod.model_rebuild(force=True)
    try:
        await hunt.machine()
        [rented] = scene.cloud.all
        assert rented.facts["asked"].cloud == "SECURE"
        assert not rented.facts["asked"].dataCenterIds
        await hunt.over()
    finally:
        monkeypatch.undo()
        RunPod.model_rebuild(force=True)


@pytest.mark.thorough
@pytest.mark.fault(67, "as the documents say")
@pytest.mark.parametrize("scene", ["vast"], indirect=True)
async def test_a_container_that_exits_before_it_ran_is_given_up_after_its_grace(
    scene, hunt, monkeypatch
):
    monkeypatch.setattr(vast, "EXITED_SECONDS", 2.0)
    order, boots = scene.cloud.rent, iter([True])

    def exits(rented):
        scene.cloud.never_boot = next(boots, False)
        made = order(rented)
        if scene.cloud.never_boot:
            asyncio.get_running_loop().call_later(0.5, setattr, rented, "status", "exited")
        return made

    scene.cloud.rent = exits

    await hunt.machine()

    first, second = hunt.outcomes()
    assert first.startswith(BootError.__name__)
    assert "not started again within" in first
    assert second == "in use"
    assert hunt.seconds < 60
    await hunt.over()


@pytest.mark.fault(67, "as the documents say")
async def test_the_dead_man_switch_grants_the_seconds_that_the_job_grants(scene, hunt):
    hunt.wants(limits={"stop_grace_seconds": 7})

    await hunt.machine()

    lines = command_lines(scene.machine().processes())
    [sentinel] = [line for line in lines.values() if "sentinel.sh" in "".join(line)]
    assert sentinel[-2:] == ["7", "60"]
    await hunt.over()


@pytest.mark.fault(67, "as the documents say")
@pytest.mark.parametrize(
    "scene",
    ["runpod", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("lambda", "vast"))],
    indirect=True,
)
async def test_a_refusal_that_quotes_the_key_is_told_without_it(scene, hunt):
    words = f"the key {scene.cloud.key} may do nothing"
    body = {"detail": words, "msg": words, "error": {"code": "global/x", "message": words}}
    scene.cloud.faults.add(Fault(kind="status", status=401, body=body, times=math.inf))

    error = await hunt.fails(CredentialsError, r"the key \*\*\* may do nothing")

    assert scene.cloud.key not in str(error)
    scene.cloud.faults.clear()
    await hunt.over()
