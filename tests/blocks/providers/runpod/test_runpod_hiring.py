"""RunPod: offers and creates, whatever becomes of the answer."""

import asyncio
import math

import pytest

from blocks.models import InstanceStatus
from blocks.providers.gpu_names import matches
from tests.blocks.providers.rented_account import mark, until
from tests.blocks.providers.runpod.runpod_account import RTX, connection, launched
from tests.clouds.cloud import Fault
from tests.waiting import PATIENCE
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    CredentialsError,
    FundsError,
)

CREATE = {"method": "POST", "path": "/v2/pods$"}


def creates(cloud):
    return cloud.calls()["POST", "/v2/pods"]


async def test_gpus_are_offered_cheapest_first_at_the_price_of_the_pod(provider):
    offers = await provider.offers(Resources(), Limits())

    assert [(offer.instance_type, offer.price_per_hour) for offer in offers] == [
        ("NVIDIA L4", 0.39),
        ("NVIDIA GeForce RTX 4090", 0.69),
        ("NVIDIA L40S", 0.86),
        ("NVIDIA A100 80GB PCIe", 1.39),
        ("NVIDIA H100 80GB HBM3", 2.69),
    ]
    assert {offer.gpu_count for offer in offers} == {1}
    assert offers[1].host == "NVIDIA GeForce RTX 4090@SECURE"


async def test_the_kind_of_gpu_may_be_set_by_a_variable_and_a_job_outweighs_it(
    provider, monkeypatch
):
    monkeypatch.setenv("RUNPOD_GPU_TYPE", "NVIDIA GeForce RTX 4090")

    async def kinds(**asked):
        return [one.instance_type for one in await provider.offers(Resources(**asked), Limits())]

    assert await kinds() == ["NVIDIA GeForce RTX 4090"]
    assert await kinds(gpu_types=["L4"]) == ["NVIDIA L4"]
    assert await kinds(gpu_count=0) == ["cpu3c-4", "cpu3g-4", "cpu3m-4"]
    monkeypatch.setenv("RUNPOD_GPU_TYPE", "RTX 9999")
    with pytest.raises(CapacityError, match="RUNPOD_GPU_TYPE = 'RTX 9999' asks for that GPU"):
        await kinds()


async def test_a_pod_lets_in_the_users_own_key_too(provider, cloud, monkeypatch):
    own = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    monkeypatch.setenv("RUNPOD_SSH_PUBLIC_KEY", f"{own} ada@home\n")

    await launched(provider)

    assert cloud.all[0].public_keys[-1] == f"{own} ada@home"
    assert len(cloud.all[0].public_keys) == 2


@pytest.mark.parametrize(
    ("wanted", "types"),
    [
        (Resources(gpu_types=["L4"]), ["NVIDIA L4"]),
        (Resources(gpu_types=["a100", "h100 sxm"]), ["NVIDIA A100 80GB PCIe", "NVIDIA H100 80GB HBM3"]),
        (Resources(min_vram_gb=48), ["NVIDIA L40S", "NVIDIA A100 80GB PCIe", "NVIDIA H100 80GB HBM3"]),
        (Resources(regions=["us-tx-3"]), ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]),
        (Resources(gpu_count=0), ["cpu3c-4", "cpu3g-4", "cpu3m-4"]),
        (Resources(gpu_count=0, min_ram_gb=20), ["cpu3m-4", "cpu3g-8", "cpu3c-16"]),
    ],
    ids=["type", "types", "vram", "region", "cpu", "ram"],
)  # fmt: skip
async def test_offers_are_what_is_asked_for(provider, wanted, types):
    offers = await provider.offers(wanted, Limits())

    assert [offer.instance_type for offer in offers] == types


@pytest.mark.parametrize(
    ("wanted", "limits", "words"),
    [
        (Resources(spot=True), Limits(), "no spot"),
        (RTX, Limits(max_price_per_hour=0.5), r"costs 0\.69 USD.*max_price_per_hour = 0\.5"),
        (
            Resources(gpu_types=["A5000"]),
            Limits(),
            r"no free machine that fits: RTX A5000 at 0\.27",
        ),
        (Resources(gpu_types=["MI300X"]), Limits(), "no kind of machine"),
        (Resources(gpu_types=["H100"], regions=["EU-RO-1"]), Limits(), "no free machine"),
    ],
    ids=["spot", "price", "stock", "maker", "region"],
)
async def test_why_there_is_no_offer_is_told(provider, wanted, limits, words):
    with pytest.raises(CapacityError, match=words):
        await provider.offers(wanted, limits)


@pytest.mark.parametrize(
    ("part", "name", "found"),
    [
        ("rtx-4090", "NVIDIA GeForce RTX 4090", True),
        ("RTX 6000 Ada", "RTX 6000Ada", True),
        ("4090", "RTX4090", True),
        ("A10", "NVIDIA A100", False),
        ("L4", "NVIDIA L40S", False),
        ("H200", "NVIDIA GH200", False),
    ],
)
def test_a_part_of_a_gpus_name_finds_it(part, name, found):
    assert matches([part], None, name) is found


async def test_a_pod_boots_until_ssh_answers(provider, cloud):
    cloud.sshd_delay = 0.3
    started = await launched(provider)

    instance = await until(provider, started.id, InstanceStatus.RUNNING)
    (await connection(instance)).abort()
    async with provider.machine(instance) as machine:
        said = await machine.run(["sh", "-c", "nvidia-smi && echo $RUNPOD_POD_ID"])

    assert (started.status, started.address) == (InstanceStatus.PROVISIONING, "")
    assert started.host == instance.host == "NVIDIA GeForce RTX 4090@SECURE"
    assert (instance.region, instance.price_per_hour) == ("EU-RO-1", 0.69)
    assert said.stdout.splitlines() == ["NVIDIA GeForce RTX 4090, 24564", instance.id]


@pytest.mark.parametrize("resources", [Resources(gpu_count=0), Resources(min_ram_gb=64, regions=["EU-RO-1"])])  # fmt: skip
async def test_the_pod_is_what_was_offered(provider, cloud, resources):
    [offer, *_] = await provider.offers(resources, Limits())

    instance = await provider.launch(offer, mark(), None)

    assert (instance.instance_type, instance.host) == (offer.instance_type, offer.host)
    assert (instance.gpu_type, instance.gpu_count) == (offer.gpu_type, offer.gpu_count)
    assert instance.price_per_hour == pytest.approx(offer.price_per_hour)
    [pod] = cloud.all
    assert pod.facts["asked"].disk >= 20
    assert pod.facts["asked"].dataCenterIds == resources.regions


async def test_running_without_an_address_is_not_running_yet(provider, cloud):
    cloud.direct_delay = math.inf
    instance = await launched(provider)
    async with asyncio.timeout(PATIENCE):
        while instance.detail != "RUNNING, without an address for SSH yet":
            assert (instance.status, instance.address) == (InstanceStatus.PROVISIONING, "")
            instance = await provider.describe(instance.id)

    assert instance.status is InstanceStatus.PROVISIONING


async def test_a_name_that_is_taken_is_adopted(provider, cloud):
    first = await launched(provider)

    assert (await launched(provider)).id == first.id
    assert creates(cloud) == 1


@pytest.mark.parametrize(
    "kind", ["commit_then_status", "commit_then_drop", "commit_then_silence", "truncated", "empty"]
)
async def test_a_create_whose_answer_is_lost_is_adopted(provider, cloud, kind):
    cloud.list_lag = 0.6
    cloud.faults.add(Fault(kind=kind, **CREATE))

    instance = await launched(provider)

    assert (instance.mark, cloud.alive()) == (mark(), [instance.id])
    assert creates(cloud) == 1


@pytest.mark.parametrize("kind", ["drop", "html", "silence"])
async def test_a_create_that_came_to_nothing_is_a_lack_of_capacity(provider, cloud, kind):
    cloud.faults.add(Fault(kind=kind, **CREATE))

    with pytest.raises(CapacityError, match=r"Nothing came of it in 1 s"):
        await launched(provider)

    assert (creates(cloud), cloud.alive()) == (1, [])


@pytest.mark.parametrize(
    ("trouble", "error", "words"),
    [
        ({"no_capacity": True}, CapacityError, "No NVIDIA GeForce RTX 4090 in SECURE: .*no longer"),
        ({"forbidden": {"NVIDIA GeForce RTX 4090"}}, CapacityError, "access denied"),
        ({"no_funds": True}, FundsError, "insufficient balance.*billing"),
        ({"expired": True}, CredentialsError, "api key expired.*RUNPOD_API_KEY"),
    ],
    ids=["capacity", "pool", "funds", "key"],
)
async def test_a_refusal_tells_what_to_do_next(provider, cloud, trouble, error, words):
    [offer, *_] = await provider.offers(RTX, Limits())
    vars(cloud).update(trouble)

    with pytest.raises(error, match=words):
        await provider.launch(offer, mark(), None)

    assert cloud.alive() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": "missing/image"}, "not found on the registry"),
        ({"image": "x" * 110_000}, "exceeds"),
        ({"image": ""}, "Request validation failed. image: is required"),
    ],
    ids=["registry", "large", "schema"],
)
async def test_settings_that_cannot_work_are_the_users(provider, changes, words):
    [offer, *_] = await provider.offers(RTX, Limits())

    with pytest.raises(ConfigError, match=words):
        await provider.model_copy(update=changes).launch(offer, mark(), None)
