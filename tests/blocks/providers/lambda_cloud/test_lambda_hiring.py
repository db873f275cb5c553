"""Lambda Cloud: offers, keys and launches, whatever becomes of the answer."""

import math
import os

import pytest

from blocks.keys import MachineKeys
from blocks.models import InstanceStatus
from blocks.providers import lambda_cloud
from blocks.providers.lambda_cloud import LambdaCloud
from tests.blocks.providers.lambda_cloud.lambda_account import LAUNCH, cheapest, launched
from tests.blocks.providers.rented_account import mark, true, until
from tests.clouds.cloud import Fault
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    OrchestratorError,
)

EVERYTHING = Resources(), Limits()


async def test_offers_are_what_is_in_stock_cheapest_first(provider):
    offers = await provider.offers(*EVERYTHING)

    assert [(o.instance_type, o.region, o.price_per_hour) for o in offers] == [
        ("gpu_1x_a10", "us-east-1", 0.75),
        ("gpu_1x_a10", "us-west-1", 0.75),
        ("gpu_1x_a100_sxm4", "us-west-1", 1.29),
        ("gpu_1x_gh200", "us-east-3", 1.49),
    ]
    assert (offers[0].vram_gb, offers[0].ram_gb, offers[0].disk_gb) == (24, 200, 1400)
    assert offers[0].host == "gpu_1x_a10 in us-east-1"


@pytest.mark.parametrize(
    ("resources", "limits", "types"),
    [
        ({"gpu_types": ["A100"]}, {}, {"gpu_1x_a100_sxm4"}),
        ({"gpu_types": ["A10"]}, {}, {"gpu_1x_a10"}),
        ({"min_vram_gb": 40}, {}, {"gpu_1x_a100_sxm4", "gpu_1x_gh200"}),
        ({"regions": ["us-east-3"]}, {}, {"gpu_1x_gh200"}),
        ({"gpu_count": 0}, {}, {"cpu_4x_general"}),
        ({"spot": None}, {"max_price_per_hour": 1.0}, {"gpu_1x_a10"}),
    ],
)
async def test_offers_are_filtered(provider, resources, limits, types):
    offers = await provider.offers(Resources(**resources), Limits(**limits))

    assert {offer.instance_type for offer in offers} == types


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"spot": True}, "no spot machines"),
        ({"gpu_types": ["RTX 6000"]}, "gpu_1x_rtx6000 is sold out"),
        ({"gpu_types": ["B200"]}, "not what is asked for"),
        ({"min_ram_gb": 4096}, "not what is asked for"),
        ({"disk_gb": 5000}, "not what is asked for"),
    ],
)
async def test_no_offer_is_told_with_what_there_is(provider, resources, words):
    with pytest.raises(CapacityError, match=words):
        await provider.offers(Resources(**resources), Limits())


async def test_a_machine_is_launched_reached_and_gone(cloud, provider, key):
    cloud.sshd_never = False

    instance = await launched(provider, key)
    running = await until(provider, instance.id, InstanceStatus.RUNNING)
    await true(lambda: cloud.machines)
    async with provider.machine(running) as machine:
        said = await machine.run(["nvidia-smi", "-L"])
    await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.ABSENT)

    assert "NVIDIA A10" in said.stdout
    assert running.address != "127.0.0.1"
    assert running.port == cloud.ssh_port
    assert (running.mark, running.price_per_hour, running.gpu_count) == (mark(), 0.75, 1)
    assert cloud.alive() == []
    assert cloud.keys == {}


async def test_the_whole_life_keeps_to_the_openapi_document(cloud, provider, key):
    instance = await launched(provider, key)
    await until(provider, instance.id, InstanceStatus.RUNNING)
    await provider.remark(instance.id, mark(2))
    await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.ABSENT)

    assert cloud.contract.violations == []
    assert cloud.contract.checked > 5 or "OPENAPI_DIR" not in os.environ


async def test_a_launch_sends_one_key_and_legal_tags(cloud, provider, key):
    instance = await launched(provider, key)

    asked = cloud.account[instance.id].facts["asked"]
    assert {tag["key"]: tag["value"] for tag in asked["tags"]}["name"] == str(mark())
    assert asked["ssh_key_names"] == [next(iter(cloud.keys.values()))["name"]]


async def test_a_cpu_machine_has_no_gpu(cloud, provider, key):
    offer = await cheapest(provider, gpu_count=0)
    instance = await provider.launch(offer, mark(), key)

    assert (offer.gpu_type, (await provider.describe(instance.id)).gpu_count) == (None, 0)


async def test_a_key_that_the_account_has_is_used_again(cloud, provider, key):
    cloud.keys["1"] = {"id": "1", "name": "laptop", "public_key": key + " of somebody"}

    instance = await launched(provider, key)
    await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.ABSENT)

    assert cloud.account[instance.id].facts["asked"]["ssh_key_names"] == ["laptop"]
    assert list(cloud.keys) == ["1"]


async def test_a_key_whose_registration_is_not_answered_is_found(cloud, provider, key):
    cloud.faults.add(Fault(kind="commit_then_drop", method="POST", path="/ssh-keys$"))

    await launched(provider, key)

    assert len(cloud.keys) == 1


async def test_a_key_in_use_stays_and_goes_with_a_later_instance(cloud, provider, key, monkeypatch):
    first = await launched(provider, key)
    LambdaCloud._keys_of.clear()  # as in another process
    cloud.account[first.id].gone = True
    monkeypatch.setattr(lambda_cloud, "KEY_IDLE_SECONDS", -2.0)

    other = await launched(provider, MachineKeys("other").public_key(), 7)
    await provider.describe(first.id)
    names = [name["name"] for name in cloud.keys.values()]

    assert names == cloud.account[other.id].facts["asked"]["ssh_key_names"]


async def test_a_fresh_key_of_another_launch_is_left_alone(cloud, provider, key):
    first = await launched(provider, key)
    await provider._register(MachineKeys("other").public_key())
    await provider.terminate(first.id)
    await until(provider, first.id, InstanceStatus.ABSENT)

    assert [k["public_key"] for k in cloud.keys.values()] == [MachineKeys("other").public_key()]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="commit_then_drop", path=LAUNCH),
        Fault(kind="commit_then_status", path=LAUNCH, status=502, body="<html>"),
        Fault(kind="truncated", path=LAUNCH),
        Fault(kind="empty", path=LAUNCH),
        Fault(
            kind="commit_then_status",
            path=LAUNCH,
            status=400,
            body={"error": {"code": "provider/internal-unavailable", "message": "Unavailable"}},
        ),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status}",
)
async def test_a_launch_without_an_answer_is_adopted(cloud, provider, key, fault):
    cloud.list_lag = 0.2
    cloud.faults.add(fault)

    instance = await launched(provider, key)

    assert [rented.id for rented in cloud.all] == [instance.id]
    assert cloud.calls()["POST", "/api/v1/instance-operations/launch"] == 1


async def test_a_launch_that_was_lost_before_it_arrived_is_a_lack_of_capacity(cloud, provider, key):
    cloud.faults.add(Fault(kind="drop", path=LAUNCH))

    with pytest.raises(CapacityError, match=r"[Nn]othing came of it"):
        await launched(provider, key)
    assert cloud.all == []


async def test_a_name_that_is_taken_is_returned(cloud, provider, key):
    first = await launched(provider, key)
    again = await launched(provider, key)

    assert (again.id, len(cloud.all)) == (first.id, 1)


async def test_an_instance_that_is_not_listed_yet_is_not_gone(cloud, provider, key):
    cloud.list_lag = math.inf
    instance = await launched(provider, key)

    assert (await provider.describe(instance.id)).status.is_billing
    assert await provider.find(mark()) is None


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("status", 400, "instance-operations/launch/insufficient-capacity"),
        ("status", 400, "global/quota-exceeded"),
        ("drop", 0, ""),
    ],
    ids=["sold out", "quota", "nothing came of it"],
)
async def test_a_launch_that_comes_to_nothing_leaves_no_key(
    cloud, provider, key, kind, status, code
):
    body = {"error": {"code": code, "message": "No."}}
    refusal = Fault(kind=kind, method="POST", path="/launch$", status=status or 500, body=body)
    cloud.faults.add(refusal)

    with pytest.raises(OrchestratorError):
        await launched(provider, key)

    assert cloud.alive() == []
    assert cloud.keys == {}


async def test_keys_of_launches_that_were_given_up_are_swept(cloud, provider, key, monkeypatch):
    instance = await launched(provider, key)
    used = list(cloud.keys)
    cloud.keys["1"] = {"id": "1", "name": "laptop", "public_key": "ssh-ed25519 AAAA ada"}
    name = await provider._register(MachineKeys("other").public_key())
    young = {one["name"] for one in cloud.keys.values()}

    await provider.sweep()
    assert name in young
    assert {one["name"] for one in cloud.keys.values()} == young
    monkeypatch.setattr(lambda_cloud, "KEY_IDLE_SECONDS", -2.0)
    await provider.sweep()

    assert list(cloud.keys) == [*used, "1"]
    assert cloud.alive() == [instance.id]
