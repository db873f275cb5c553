"""Vast.ai: errors, paces and rows that are not as described."""

import time

import pytest

from blocks.models import InstanceStatus
from blocks.providers.vast import VastAI
from blocks.providers.vast.answers import address_of, instance_of, offer_of, status_of
from tests.blocks.providers.rented_account import mark
from tests.blocks.providers.vast.vast_account import ASKS, answered, launched, offered
from tests.clouds.cloud import Fault
from tests.waiting import until
from trainer.contract.errors import (
    CapacityError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    OrchestratorError,
    ProviderError,
    QuotaError,
    RateLimited,
)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "no_such_ask", CapacityError),
        (410, "no_such_ask", CapacityError),
        (400, "no_such_ask", CapacityError),
        (200, "no_such_ask", CapacityError),
        (403, "invalid_args", CapacityError),
        (400, "invalid_args", ProviderError),
        (400, "invalid_price", ProviderError),
        (400, "insufficient_credit", FundsError),
        (401, "auth_error", CredentialsError),
        (404, "auth_error", CredentialsError),
        (403, "auth_error", CredentialsError),
        (400, "rate_limit_exceeded", RateLimited),
    ],
)
async def test_errors_are_told_apart_by_their_code(cloud, provider, key, status, code, kind):
    cloud.faults.add(answered(ASKS, status, code, f"error 404/3603 for key {cloud.key}."))

    with pytest.raises(OrchestratorError) as caught:
        await launched(provider, key)

    assert type(caught.value) is kind
    assert cloud.key not in str(caught.value)
    assert cloud.all == []


@pytest.mark.parametrize("status", [404, 410, 400])
async def test_an_offer_that_is_taken_meanwhile_is_a_lack_of_capacity(cloud, provider, key, status):
    offer = (await offered(provider))[0]
    cloud.ask_status = status
    bid = await provider._check_on_sale(offer)
    cloud.asks[102].rented = True

    with pytest.raises(CapacityError, match="available"):
        await provider._accept(offer, mark(), key, bid)
    with pytest.raises(CapacityError, match="is gone"):
        await provider.launch(offer, mark(), key)


async def test_what_became_dearer_is_not_ordered(cloud, provider, key):
    offer = (await offered(provider))[0]
    cloud.asks[102].price += 0.01

    with pytest.raises(CapacityError, match=r"costs 0\.2\d+ USD"):
        await provider.launch(offer, mark(), key)
    assert cloud.all == []


@pytest.mark.parametrize(
    ("switch", "value", "kind"),
    [("no_capacity", True, CapacityError), ("no_funds", True, FundsError)],
)
async def test_refused_orders(cloud, provider, key, switch, value, kind):
    setattr(cloud, switch, value)

    with pytest.raises(kind):
        await launched(provider, key)
    assert cloud.alive() == []


@pytest.mark.parametrize("status", [401, 404])
async def test_a_wrong_key_never_looks_like_an_instance_that_is_gone(cloud, provider, key, status):
    instance = await launched(provider, key)
    cloud.auth_status, cloud.expired = status, True

    for call in (provider.describe, provider.terminate):
        with pytest.raises(CredentialsError, match="VAST_API_KEY"):
            await call(instance.id)


async def test_a_bare_404_is_no_proof_that_an_instance_is_gone(cloud, provider, key):
    instance = await launched(provider, key)
    cloud.faults.add(
        Fault(kind="status", method="DELETE", status=404, body="404 page not found"),
        Fault(kind="html", method="DELETE", status=403),
    )

    with pytest.raises(ProviderError):
        await provider.terminate(instance.id)
    with pytest.raises(ConnectionLost):
        await provider.terminate(instance.id)


@pytest.mark.parametrize("status", [200, 404])
async def test_a_deleted_instance_is_gone(cloud, provider, key, status):
    cloud.gone_status = status
    instance = await launched(provider, key)
    cloud.kill_machine(instance.id)

    assert (await provider.describe(instance.id)).status is InstanceStatus.ABSENT
    await provider.terminate(instance.id)
    assert not await provider.remark(instance.id, mark(2))


async def test_the_search_quota_of_a_day_is_not_asked_for_twice(cloud, provider):
    cloud.searches_left = 0

    with pytest.raises(QuotaError, match="quota"):
        await offered(provider)
    assert cloud.calls()["POST", "/api/v0/bundles/"] == 1


@pytest.mark.parametrize("plain", [True, False])
async def test_a_call_that_comes_too_early_waits_as_long_as_it_is_told(cloud, provider, plain):
    cloud.rates.factor, cloud.plain_429 = 0.3, plain

    began = []

    async def was_refused():  # a busy computer may leave the time between two calls
        began.append(time.monotonic())
        await provider.instances()
        return cloud.rates.refused["list"]

    assert await until(was_refused) == 1
    assert time.monotonic() - began[-2] >= 0.3


async def test_calls_keep_the_pace_of_each_endpoint(cloud, provider, key, monkeypatch):
    scaled = {kind: seconds / 20 for kind, seconds in PACES.items()}
    monkeypatch.setattr(VastAI, "intervals", scaled)
    cloud.rates.factor = 0.04

    instance = await launched(provider, key)
    await provider.find(mark())
    await provider.remark(instance.id, mark(2))
    await provider.terminate(instance.id)

    assert not cloud.rates.refused


PACES = dict(VastAI.intervals)


RUNNING = dict.fromkeys(("intended_status", "cur_state", "next_state"), "running")


STOPPED = dict.fromkeys(RUNNING, "stopped")


PROXY = {"ssh_host": "ssh5.vast.ai", "ssh_port": 10882}


@pytest.mark.parametrize(
    ("actual", "states", "status"),
    [
        (None, RUNNING, InstanceStatus.PROVISIONING),
        ("created", RUNNING, InstanceStatus.PROVISIONING),
        ("loading", RUNNING, InstanceStatus.PROVISIONING),
        ("rebooting", RUNNING, InstanceStatus.PROVISIONING),
        ("running", RUNNING, InstanceStatus.RUNNING),
        ("running", {**RUNNING, "intended_status": "stopped"}, InstanceStatus.STOPPING),
        ("running", STOPPED, InstanceStatus.STOPPING),
        ("loading", {**RUNNING, "cur_state": "stopped"}, InstanceStatus.PROVISIONING),
        ("exited", STOPPED, InstanceStatus.LOST),
        ("stopped", STOPPED, InstanceStatus.LOST),
        (None, STOPPED, InstanceStatus.LOST),
        ("exited", RUNNING, InstanceStatus.UNKNOWN),
        ("offline", RUNNING, InstanceStatus.UNKNOWN),
        ("unknown", RUNNING, InstanceStatus.UNKNOWN),
        ("frozen", RUNNING, InstanceStatus.UNKNOWN),
        ("dreaming", RUNNING, InstanceStatus.UNKNOWN),
        ("exited", {"intended_status": "stopped"}, InstanceStatus.STOPPING),
    ],
)
def test_statuses(actual, states, status):
    assert status_of({"actual_status": actual, **states, **PROXY})[0] is status


def test_a_container_that_cannot_be_made_is_lost():
    row = {"actual_status": "created", **RUNNING, "status_msg": "OCI runtime create failed: x"}

    assert status_of(row) == (InstanceStatus.LOST, "created: OCI runtime create failed: x")


def test_sshd_is_reached_directly_where_a_port_is_mapped():
    ports = {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "41234"}]}  # noqa: S104
    direct = {**PROXY, "public_ipaddr": " 203.0.113.42\n", "ports": ports}

    assert address_of(direct) == ("203.0.113.42", 41234)
    assert address_of({**direct, "ports": None}) == ("ssh5.vast.ai", 10882)
    assert address_of({**direct, "public_ipaddr": None}) == ("ssh5.vast.ai", 10882)
    assert address_of({}) == ("", 22)


@pytest.mark.parametrize(
    "row",
    [
        {
            "id": 1,
            "actual_status": "running",
            **RUNNING,
            "ports": "22",
            "ssh_port": "many",
            "ssh_host": "h",
        },
        {"id": 1, "actual_status": "dreaming", "extra_env": [1, 2], "num_gpus": "x", "label": None},
    ],
)
def test_a_row_that_is_not_as_described_is_unknown_and_billed(row):
    instance = instance_of(row, "root")

    assert (instance.id, instance.status) == ("1", InstanceStatus.UNKNOWN)


async def test_new_fields_nulls_and_new_words_break_nothing(cloud, provider, key):
    instance = await launched(provider, key)
    cloud.extra_fields = True
    cloud.null_fields = {"ports", "geolocation", "gpu_ram", "extra_env", "min_bid"}
    cloud.missing_fields = {"host_id", "next_token", "label_counts", "success"}
    cloud.unknown_status = "dreaming"

    seen = await provider.describe(instance.id)

    assert seen.status is InstanceStatus.UNKNOWN
    assert len(await offered(provider)) == 4  # it took one


async def test_a_list_without_a_list_is_not_an_empty_account(cloud, provider, key):
    await launched(provider, key)
    cloud.missing_fields = {"instances"}

    with pytest.raises(ProviderError, match="GET /api/v1/instances/"):
        await provider.instances()


def test_the_traffic_that_a_host_bills_is_known_of_its_offers_and_its_machines():
    row = {"id": 7, "num_gpus": 1, "gpu_name": "RTX 4090", "inet_up_cost": 0.003}

    offer = offer_of(row, disk_gb=None, gpu_count=1, spot=False)

    assert offer.traffic_price == instance_of(row, "root").traffic_price == 0.003
    assert offer.extra_per_hour == 0  # its disk is in its price
