import asyncio
import math
import os
import time

import pytest

from blocks.keys import MachineKeys
from blocks.models import InstanceStatus
from blocks.providers import api, lambda_cloud
from blocks.providers.lambda_answers import instance_of, offer_of
from blocks.providers.lambda_cloud import LambdaCloud
from tests.clouds.cloud import Fault
from tests.clouds.lambda_cloud import LambdaCloud as LambdaServer
from trainer.config import Limits, Resources
from trainer.errors import (
    CapacityError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    OrchestratorError,
    ProviderError,
    QuotaError,
)

NAME = "to-0a1b2c3d-" + 32 * "0" + "-1"
LAUNCH = "/launch$"
EVERYTHING = Resources(), Limits()


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(LambdaCloud, "intervals", {})
    monkeypatch.setattr(LambdaCloud, "settle_seconds", 0.6)
    for name in ("TYPES_SECONDS", "INSTANCES_SECONDS"):
        monkeypatch.setattr(lambda_cloud, name, 0.0)
    monkeypatch.setattr(api, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(api, "RATE_PAUSE", 0.1)
    with LambdaServer(tmp_path / "cloud") as cloud:
        cloud.rates.factor = 0.0
        cloud.boot_seconds = 0.1
        cloud.sshd_never = True
        for name, value in cloud.environ().items():
            monkeypatch.setenv(name, value)
        yield cloud
    assert cloud.errors == []


@pytest.fixture
def provider(cloud):
    return LambdaCloud()


@pytest.fixture
def key():
    return MachineKeys(NAME).public_key()


async def cheapest(provider, **resources):
    return (await provider.offers(Resources(**resources), Limits()))[0]


async def launched(provider, key, name=NAME):
    return await provider.launch(await cheapest(provider), name, key)


async def until(provider, id, status, seconds=20.0):
    deadline = time.monotonic() + seconds
    while (instance := await provider.describe(id)).status is not status:
        assert time.monotonic() < deadline, instance
        await asyncio.sleep(0.02)
    return instance


async def true(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    for _ in iter(lambda: bool(condition()), True):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def answered(path, status, code, words="No."):
    body = {"error": {"code": code, "message": words, "suggestion": None}}
    return Fault(kind="status", path=path, status=status, body=body)


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
        ({"gpu_types": ["B200"]}, "not what you ask for"),
        ({"min_ram_gb": 4096}, "not what you ask for"),
        ({"disk_gb": 5000}, "not what you ask for"),
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
    await until(provider, instance.id, InstanceStatus.GONE)

    assert "NVIDIA A10" in said.stdout
    assert running.address != "127.0.0.1"
    assert running.port == cloud.ssh_port
    assert (running.name, running.price_per_hour, running.gpu_count) == (NAME, 0.75, 1)
    assert cloud.alive() == []
    assert cloud.keys == {}


async def test_the_whole_life_keeps_to_the_openapi_document(cloud, provider, key):
    instance = await launched(provider, key)
    await until(provider, instance.id, InstanceStatus.RUNNING)
    await provider.rename(instance.id, f"{NAME}2")
    await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.GONE)

    assert cloud.contract.violations == []
    assert cloud.contract.checked > 5 or "OPENAPI_DIR" not in os.environ


async def test_a_launch_sends_one_key_and_legal_tags(cloud, provider, key):
    instance = await launched(provider, key)

    asked = cloud.account[instance.id].facts["asked"]
    assert {tag["key"]: tag["value"] for tag in asked["tags"]}["name"] == NAME
    assert asked["ssh_key_names"] == [next(iter(cloud.keys.values()))["name"]]


async def test_a_cpu_machine_has_no_gpu(cloud, provider, key):
    offer = await cheapest(provider, gpu_count=0)
    instance = await provider.launch(offer, NAME, key)

    assert (offer.gpu_type, (await provider.describe(instance.id)).gpu_count) == (None, 0)


async def test_a_key_that_the_account_has_is_used_again(cloud, provider, key):
    cloud.keys["1"] = {"id": "1", "name": "laptop", "public_key": key + " of somebody"}

    instance = await launched(provider, key)
    await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.GONE)

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

    other = await launched(provider, MachineKeys("other").public_key(), "other")
    await provider.describe(first.id)
    names = [name["name"] for name in cloud.keys.values()]

    assert names == cloud.account[other.id].facts["asked"]["ssh_key_names"]


async def test_a_fresh_key_of_another_launch_is_left_alone(cloud, provider, key):
    first = await launched(provider, key)
    await provider._register(MachineKeys("other").public_key())
    await provider.terminate(first.id)
    await until(provider, first.id, InstanceStatus.GONE)

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
    assert await provider.find(NAME) is None


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "instance-operations/launch/insufficient-capacity", CapacityError),
        (400, "instance-operations/launch/file-system-in-wrong-region", ProviderError),
        (400, "global/invalid-parameters", ProviderError),
        (400, "global/quota-exceeded", QuotaError),
        (401, "global/invalid-api-key", CredentialsError),
        (403, "global/account-inactive", FundsError),
        (403, "global/invalid-address", FundsError),
        (403, "global/forbidden", CredentialsError),
        (404, "global/not-found", ProviderError),
    ],
)
async def test_errors_are_told_apart_by_their_code(cloud, provider, key, status, code, kind):
    cloud.faults.add(answered(LAUNCH, status, code, f"Not enough capacity; key {cloud.key}."))

    with pytest.raises(OrchestratorError) as caught:
        await launched(provider, key)

    assert type(caught.value) is kind
    assert cloud.key not in str(caught.value)
    assert cloud.all == []


@pytest.mark.parametrize(
    ("switch", "value", "kind"),
    [
        ("no_capacity", True, CapacityError),
        ("quota_exceeded", True, QuotaError),
        ("no_funds", True, FundsError),
        ("expired", True, CredentialsError),
    ],
)
async def test_refused_launches(cloud, provider, key, switch, value, kind):
    offer = await cheapest(provider)
    setattr(cloud, switch, value)

    with pytest.raises(kind):
        await provider.launch(offer, NAME, key)


async def test_what_is_sold_out_or_dearer_since_the_offer_is_not_launched(cloud, provider, key):
    offer = await cheapest(provider)
    cloud.kinds["gpu_1x_a10"].cents = 80
    with pytest.raises(CapacityError, match=r"costs 0\.80 USD"):
        await provider.launch(offer, NAME, key)
    cloud.kinds["gpu_1x_a10"].regions.clear()
    with pytest.raises(CapacityError, match="any more"):
        await provider.launch(offer, NAME, key)

    assert cloud.calls()["POST", "/api/v1/instance-operations/launch"] == 0


@pytest.mark.parametrize("given", [None, "", "two words", "schlüssel"])
async def test_a_key_that_is_none_is_refused_without_being_shown(cloud, monkeypatch, given):
    monkeypatch.delenv("LAMBDA_API_KEY")
    provider = LambdaCloud(api_key=given)

    with pytest.raises(CredentialsError, match="LAMBDA_API_KEY") as caught:
        await provider.check()

    assert provider.is_configured() is bool(given)
    assert not given or given not in str(caught.value)


async def test_pages_of_a_front_are_no_answers(cloud, provider):
    cloud.faults.add(Fault(kind="html", status=403, path="/instances", times=2))

    with pytest.raises(ConnectionLost):
        await provider.instances()
    with pytest.raises(ConnectionLost):
        await provider.describe("0" * 32)


@pytest.mark.parametrize(
    ("word", "ip", "status"),
    [
        ("booting", None, InstanceStatus.PROVISIONING),
        ("booting", "198.51.100.2", InstanceStatus.PROVISIONING),
        ("active", None, InstanceStatus.PROVISIONING),
        ("active", "198.51.100.2", InstanceStatus.RUNNING),
        ("unhealthy", "198.51.100.2", InstanceStatus.UNKNOWN),
        ("terminating", "198.51.100.2", InstanceStatus.STOPPING),
        ("terminated", None, InstanceStatus.GONE),
        ("preempted", None, InstanceStatus.LOST),
        ("dreaming", "198.51.100.2", InstanceStatus.UNKNOWN),
        (None, None, InstanceStatus.UNKNOWN),
    ],
)
def test_statuses(word, ip, status):
    row = {"id": "1", "status": word} | ({"ip": ip} if ip else {})

    assert instance_of(row, user="ubuntu", port=22).status is status


@pytest.mark.parametrize(
    "row",
    [
        {"id": "1"},
        {"id": "1", "name": None, "status": None, "region": None, "instance_type": None},
        {"id": "1", "region": "us-west-1", "instance_type": "gpu_1x_a10"},
        {"id": "1", "instance_type": {"specs": {"gpus": "many"}, "price_cents_per_hour": "0.75"}},
    ],
)
def test_a_row_that_is_not_as_described_is_unknown_and_billed(row):
    instance = instance_of(row, user="ubuntu", port=22)

    assert (instance.id, instance.status) == ("1", InstanceStatus.UNKNOWN)


def test_memory_that_is_not_told_is_none():
    row = {"instance_type": {"name": "gpu_1x_x", "gpu_description": "X", "specs": {"gpus": 1}}}

    assert (offer_of(row).vram_gb, offer_of(row).disk_gb) == (0.0, None)


async def test_new_fields_nulls_and_new_words_break_nothing(cloud, provider, key):
    instance = await launched(provider, key)
    cloud.extra_fields = cloud.null_ip = True
    cloud.null_fields = {"tags", "hostname", "private_ip", "specs", "description"}
    cloud.missing_fields = {"actions", "firewall_rulesets"}
    cloud.unknown_status = "dreaming"

    seen = await provider.describe(instance.id)

    assert (seen.status, seen.detail) == (InstanceStatus.UNKNOWN, "dreaming")


async def test_a_list_without_a_list_is_not_an_empty_account(cloud, provider, key):
    await launched(provider, key)
    cloud.null_fields = {"data"}

    with pytest.raises(ConnectionLost):
        await provider.instances()


async def test_a_preempted_instance_is_lost_and_a_deleted_one_gone(cloud, provider, key):
    first = await launched(provider, key)
    second = await launched(provider, key, "second")
    cloud.preempt(first.id)
    cloud.kill_machine(second.id)

    assert (await provider.describe(first.id)).status is InstanceStatus.LOST
    assert (await provider.describe(second.id)).status is InstanceStatus.GONE


async def test_terminate_takes_its_time_and_is_fine_twice(cloud, provider, key):
    instance = await launched(provider, key)

    await provider.terminate(instance.id)
    seen = await provider.describe(instance.id)
    await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.GONE)
    await provider.terminate(instance.id)

    assert seen.status is InstanceStatus.STOPPING


async def test_a_refused_or_ignored_terminate_shows(cloud, provider, key):
    instance = await launched(provider, key)
    cloud.terminate_refuses = cloud.terminate_ignored = 1

    with pytest.raises(ProviderError, match="conflict"):
        await provider.terminate(instance.id)
    await provider.terminate(instance.id)

    assert (await provider.describe(instance.id)).status is not InstanceStatus.STOPPING
    assert cloud.alive() == [instance.id]


async def test_a_machine_that_powers_itself_off_is_billed_on(cloud, provider, key):
    cloud.sshd_never = False
    instance = await launched(provider, key)
    await until(provider, instance.id, InstanceStatus.RUNNING)
    await true(lambda: cloud.machines)
    (cloud.folder / instance.id / "off").touch()  # as its fake poweroff does

    seen = await until(provider, instance.id, InstanceStatus.UNKNOWN)

    assert (seen.detail, cloud.alive()) == ("unhealthy", [instance.id])


async def test_rename(cloud, provider, key):
    instance = await launched(provider, key)

    assert await provider.rename(instance.id, "kept")
    assert (await provider.find("kept")).id == instance.id
    assert not await provider.rename("0" * 32, "kept")


async def test_calls_keep_the_pace_that_the_account_allows(cloud, provider, key, monkeypatch):
    monkeypatch.setattr(LambdaCloud, "intervals", {"": 0.1, "launch": 0.6})
    cloud.rates.factor = 0.05

    await asyncio.gather(*(provider.find(NAME) for _ in range(4)))
    assert not cloud.rates.refused
    await asyncio.gather(launched(provider, key), launched(provider, key, "second"))
    assert not cloud.rates.refused["launch"]


async def test_a_call_that_comes_too_early_is_made_again(cloud, provider):
    cloud.rates.factor = 0.1

    await provider.instances()
    await provider.instances()

    assert cloud.rates.refused.total() > 0


async def test_many_who_wait_ask_once(cloud, provider, key, monkeypatch):
    monkeypatch.setattr(lambda_cloud, "INSTANCES_SECONDS", 2.0)
    instance = await launched(provider, key)
    before = cloud.calls()["GET", "/api/v1/instances"]

    await asyncio.gather(*(provider.describe(instance.id) for _ in range(50)))

    assert cloud.calls()["GET", "/api/v1/instances"] == before + 1
