"""Lambda Cloud: errors, paces, rows that are not as described, and endings."""

import asyncio

import pytest

from blocks.models import InstanceStatus
from blocks.providers import lambda_cloud
from blocks.providers.lambda_cloud import LambdaCloud
from blocks.providers.lambda_cloud.answers import instance_of, offer_of
from tests import waiting
from tests.blocks.providers.lambda_cloud.lambda_account import LAUNCH, cheapest, launched
from tests.blocks.providers.rented_account import mark, true, until
from tests.clouds.cloud import Fault
from trainer.contract.errors import (
    CapacityError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    OrchestratorError,
    ProviderError,
    QuotaError,
)


def answered(path, status, code, words="No."):
    body = {"error": {"code": code, "message": words, "suggestion": None}}
    return Fault(kind="status", path=path, status=status, body=body)


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
        await provider.launch(offer, mark(), key)


async def test_what_is_sold_out_or_dearer_since_the_offer_is_not_launched(cloud, provider, key):
    offer = await cheapest(provider)
    cloud.kinds["gpu_1x_a10"].cents = 80
    with pytest.raises(CapacityError, match=r"costs 0\.80 USD"):
        await provider.launch(offer, mark(), key)
    cloud.kinds["gpu_1x_a10"].regions.clear()
    with pytest.raises(CapacityError, match="no longer has"):
        await provider.launch(offer, mark(), key)

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
    assert (await provider.describe(second.id)).status is InstanceStatus.ABSENT


async def test_terminate_takes_its_time_and_is_fine_twice(cloud, provider, key):
    instance = await launched(provider, key)

    await provider.terminate(instance.id)
    seen = await provider.describe(instance.id)
    await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.ABSENT)
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

    assert await provider.remark(instance.id, mark(2))
    assert (await provider.find(mark(2))).id == instance.id
    assert not await provider.remark("0" * 32, mark(2))


async def test_calls_keep_the_pace_that_the_account_allows(cloud, provider, key, monkeypatch):
    monkeypatch.setattr(LambdaCloud, "intervals", {"": 0.1, "launch": 0.6})
    cloud.rates.factor = 0.025  # half of the pace: a busy computer is not always on time

    await asyncio.gather(*(provider.find(mark()) for _ in range(4)))
    assert not cloud.rates.refused
    await asyncio.gather(launched(provider, key), launched(provider, key, "second"))
    assert not cloud.rates.refused["launch"]


async def test_a_call_that_comes_too_early_is_made_again(cloud, provider):
    cloud.rates.factor = 0.1

    async def was_refused():  # a busy computer may leave the time between two calls
        await provider.instances()
        return cloud.rates.refused.total()

    assert await waiting.until(was_refused)


async def test_many_who_wait_ask_once(cloud, provider, key, monkeypatch):
    monkeypatch.setattr(lambda_cloud, "INSTANCES_SECONDS", 2.0)
    instance = await launched(provider, key)
    before = cloud.calls()["GET", "/api/v1/instances"]

    await asyncio.gather(*(provider.describe(instance.id) for _ in range(50)))

    assert cloud.calls()["GET", "/api/v1/instances"] == before + 1


@pytest.mark.parametrize("cents", [None, 0])
def test_an_instance_without_a_price_is_not_free(cents):
    row = {"id": "i", "instance_type": {"name": "gpu_1x_a10", "price_cents_per_hour": cents}}

    assert instance_of(row, user="u", port=22).price_per_hour is None
