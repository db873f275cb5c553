import asyncio
import math
import os
import shutil
import sys
import time

import pytest

from blocks.keys import MachineKeys
from blocks.models import InstanceStatus
from blocks.providers import api, vast
from blocks.providers.vast import VastAI
from blocks.providers.vast_answers import address_of, instance_of, status_of
from blocks.providers.vast_container import FAREWELL
from tests.clouds.cloud import Fault
from tests.clouds.vast import VastCloud
from tests.clouds.vast_catalog import Ask
from trainer.config import Limits, Resources
from trainer.errors import (
    CapacityError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    OrchestratorError,
    ProviderError,
    QuotaError,
    RateLimited,
)

NAME = "to-0a1b2c3d-" + 32 * "0" + "-1"
ASKS = "/api/v0/asks/"


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(VastAI, "intervals", {})
    monkeypatch.setattr(VastAI, "settle_seconds", 0.6)
    for name in ("SEARCH_SECONDS", "INSTANCES_SECONDS"):
        monkeypatch.setattr(vast, name, 0.0)
    monkeypatch.setattr(api, "PAUSES", (0.01, 0.02))
    monkeypatch.setattr(api, "RATE_PAUSE", 0.1)
    with VastCloud(tmp_path / "cloud") as cloud:
        cloud.rates.factor = 0.0
        cloud.boot_seconds = 0.1
        cloud.sshd_never = True
        for name, value in cloud.environ().items():
            monkeypatch.setenv(name, value)
        yield cloud
    assert cloud.errors == []


@pytest.fixture
def provider(cloud):
    return VastAI()


@pytest.fixture
def key():
    return MachineKeys(NAME).public_key()


async def offered(provider, limits=None, **resources):
    return await provider.offers(Resources(**resources), Limits(**(limits or {})))


async def launched(provider, key, name=NAME, **resources):
    return await provider.launch((await offered(provider, **resources))[0], name, key)


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


def answered(path, status, code, words="No.", **more):
    body = {"success": False, "error": code, "msg": words, **more}
    return Fault(kind="status", path=path, status=status, body=body)


async def test_offers_are_what_fits_cheapest_first(provider):
    offers = await offered(provider)

    assert [offer.id for offer in offers] == ["102", "101", "103", "104", "105"]
    assert [offer.gpu_type for offer in offers[:2]] == ["RTX 3090", "RTX 4090"]
    assert offers[1].price_per_hour == pytest.approx(0.36 + 0.15 * 65 / 730, abs=1e-6)
    assert (offers[1].host, offers[1].region) == ("machine 101", "Washington, US")


@pytest.mark.parametrize(
    ("resources", "limits", "ids"),
    [
        ({"gpu_types": ["rtx4090"]}, {}, ["101"]),
        ({"gpu_types": ["A100"]}, {}, ["103", "104"]),
        ({"gpu_types": ["A100"], "min_vram_gb": 80}, {}, ["104"]),
        ({"min_vram_gb": 24}, {"max_price_per_hour": 0.5}, ["102", "101"]),
        ({"regions": ["SE"]}, {}, ["105"]),
        ({"regions": ["washington, us", "SE"], "min_vram_gb": 80}, {}, ["104", "105"]),
        ({"spot": True, "gpu_types": ["H100"]}, {}, ["105"]),
        ({"spot": None, "gpu_types": ["H100"]}, {}, ["105", "105"]),
        ({"gpu_count": 0}, {"max_price_per_hour": 0.1}, ["206"]),
    ],
)
async def test_offers_are_filtered(provider, resources, limits, ids):
    offers = await offered(provider, limits, **resources)

    assert [offer.id for offer in offers] == ids


async def test_no_offer_is_told_in_the_words_of_the_job(provider):
    with pytest.raises(CapacityError, match=r"resources.gpu_types: \['B200'\]"):
        await offered(provider, gpu_types=["B200"])


async def test_more_than_a_page_of_offers_is_looked_through(cloud, provider):
    for number in range(100):
        id = 1000 + number
        cloud.asks[id] = Ask(
            id=id, gpu_name="RTX 3090", gpu_ram=24_576, price=0.1 + id / 1e5, min_bid=0.1
        )

    offers = await offered(provider, regions=["SE"])

    assert [offer.id for offer in offers] == ["105"]
    assert cloud.calls()["POST", "/api/v0/bundles/"] == 2


async def test_a_machine_is_launched_reached_and_gone(cloud, provider, key):
    cloud.sshd_never = False
    instance = await launched(provider, key, gpu_types=["RTX 4090"])
    running = await until(provider, instance.id, InstanceStatus.RUNNING)
    await true(lambda: cloud.machines)
    async with provider.machine(running) as machine:
        said = await machine.run(["nvidia-smi", "-L"])
    await provider.terminate(instance.id)

    assert "RTX 4090" in said.stdout
    assert (running.name, running.gpu_count, running.gpu_type) == (NAME, 1, "RTX 4090")
    assert running.price_per_hour == pytest.approx(instance.price_per_hour, abs=1e-6)
    assert (await provider.describe(instance.id)).status is InstanceStatus.GONE
    assert cloud.alive() == []


KNOWN_TO_BE_WRONG = (  # in the document
    "bundles/ request: type: 'on-demand'",
    "bundles/ request: order: [['dph_total', 'asc']] is too short",
    "request: env: {",
    "200: instances: None is not of type",
)


async def test_the_whole_life_keeps_to_the_openapi_document(cloud, provider, key):
    instance = await launched(provider, key)
    await until(provider, instance.id, InstanceStatus.RUNNING)
    await provider.rename(instance.id, f"{NAME}2")
    await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.GONE)

    assert [
        it for it in cloud.contract.violations if not any(w in it for w in KNOWN_TO_BE_WRONG)
    ] == []
    assert cloud.contract.checked > 5 or "OPENAPI_DIR" not in os.environ


async def test_an_order_is_complete(cloud, provider, key):
    instance = await launched(provider, key, disk_gb=100)

    asked = cloud.account[instance.id].facts["asked"]
    assert (asked["label"], asked["runtype"], asked["cancel_unavail"]) == (NAME, "ssh_direct", True)
    assert asked["disk"] == 108
    assert "price" not in asked
    assert key in cloud.account[instance.id].public_keys


@pytest.mark.parametrize("spoilt", ["onstart", "attach"])
async def test_the_key_arrives_by_either_way(cloud, provider, key, spoilt):
    cloud.onstart_works = spoilt != "onstart"
    if spoilt == "attach":
        cloud.faults.add(answered("/ssh/$", 400, "invalid_args"))

    instance = await launched(provider, key)

    assert len(cloud.account[instance.id].public_keys) == 1


async def test_a_machine_that_is_used_as_a_cpu_has_no_gpu(cloud, provider, key):
    instance = await launched(provider, key, gpu_count=0)
    seen = await provider.describe(instance.id)

    assert cloud.account[instance.id].offer == "206"
    assert (instance.gpu_count, seen.gpu_count, seen.gpu_type) == (0, 0, None)


async def test_a_bid_is_above_the_lowest_and_within_the_cap(cloud, provider, key):
    storage = 0.15 * 65 / 730
    dear, cheap = [
        (await offered(provider, limits, spot=True, gpu_types=["H100"]))[0]
        for limits in ({}, {"max_price_per_hour": 1.25})
    ]
    instance = await provider.launch(cheap, NAME, key)

    assert dear.price_per_hour == pytest.approx(1.2 * 1.1 + storage, abs=1e-6)
    assert cheap.price_per_hour == 1.25
    assert cloud.account[instance.id].facts["asked"]["price"] == pytest.approx(1.25 - storage)
    assert (await provider.describe(instance.id)).spot


async def test_a_bid_that_is_too_low_by_then_is_destroyed(cloud, provider, key):
    offer = (await offered(provider, spot=True))[0]
    bid = await provider._check_on_sale(offer)
    cloud.asks[102].min_bid = 9.0

    with pytest.raises(CapacityError, match="is destroyed"):
        await provider._accept(offer, NAME, key, bid)

    assert len(cloud.all) == 1
    assert cloud.alive() == []


@pytest.mark.parametrize(
    ("code", "kind"), [("insufficient_credit", FundsError), ("no_such_ask", CapacityError)]
)
async def test_an_error_with_an_id_is_destroyed_and_told(cloud, provider, key, code, kind):
    id = next(cloud._ids) + 1
    body = {"success": False, "error": code, "msg": "No.", "new_contract": id}
    cloud.faults.add(
        Fault(kind="commit_then_status", path=ASKS, status=400, body=body),
        Fault(kind="status", method="DELETE", status=429, body="endpoint threshold=0.05"),
    )

    with pytest.raises(kind):
        await launched(provider, key)

    assert [one.id for one in cloud.all] == [str(id)]
    assert cloud.alive() == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="commit_then_drop", path=ASKS),
        Fault(kind="commit_then_status", path=ASKS, status=502, body="<html>"),
        Fault(kind="truncated", path=ASKS),
        Fault(kind="empty", path=ASKS),
        Fault(kind="commit_then_status", path=ASKS, status=200, body={"success": True}),
    ],
    ids=lambda fault: f"{fault.kind} {fault.status}",
)
async def test_an_order_without_an_answer_is_adopted(cloud, provider, key, fault):
    cloud.list_lag = 0.2
    cloud.faults.add(fault)

    instance = await launched(provider, key)

    assert [rented.id for rented in cloud.all] == [instance.id]
    assert key in cloud.account[instance.id].public_keys[-1]


async def test_an_order_that_was_lost_before_it_arrived_is_a_lack_of_capacity(cloud, provider, key):
    cloud.faults.add(Fault(kind="drop", path=ASKS))

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

    assert (await provider.describe(instance.id)).status is InstanceStatus.PROVISIONING


async def test_all_pages_of_instances_are_read(cloud, provider, key):
    for number in range(30):
        cloud.asks[number] = Ask(
            id=number, gpu_name="RTX 3090", gpu_ram=24_576, price=0.1, min_bid=0.1
        )
        offer = (await offered(provider, gpu_types=["RTX 3090"]))[0]
        await provider._accept(offer, f"{NAME}{number}", key, None)

    assert len(await provider.instances()) == 30


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
        await provider._accept(offer, NAME, key, bid)
    with pytest.raises(CapacityError, match="is gone"):
        await provider.launch(offer, NAME, key)


async def test_what_became_dearer_is_not_ordered(cloud, provider, key):
    offer = (await offered(provider))[0]
    cloud.asks[102].price += 0.01

    with pytest.raises(CapacityError, match=r"costs 0\.2\d+ USD"):
        await provider.launch(offer, NAME, key)
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

    assert (await provider.describe(instance.id)).status is InstanceStatus.GONE
    await provider.terminate(instance.id)
    assert not await provider.rename(instance.id, "kept")


async def test_the_search_quota_of_a_day_is_not_asked_for_twice(cloud, provider):
    cloud.searches_left = 0

    with pytest.raises(QuotaError, match="quota"):
        await offered(provider)
    assert cloud.calls()["POST", "/api/v0/bundles/"] == 1


@pytest.mark.parametrize("plain", [True, False])
async def test_a_call_that_comes_too_early_waits_as_long_as_it_is_told(cloud, provider, plain):
    cloud.rates.factor, cloud.plain_429 = 0.3, plain

    began = time.monotonic()
    await provider.instances()
    await provider.instances()

    assert cloud.rates.refused["list"] == 1
    assert time.monotonic() - began >= 0.3


async def test_calls_keep_the_pace_of_each_endpoint(cloud, provider, key, monkeypatch):
    scaled = {kind: seconds / 20 for kind, seconds in PACES.items()}
    monkeypatch.setattr(VastAI, "intervals", scaled)
    cloud.rates.factor = 0.04

    instance = await launched(provider, key)
    await provider.find(NAME)
    await provider.rename(instance.id, "kept")
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

    with pytest.raises(ConnectionLost):
        await provider.instances()


async def test_a_preempted_instance_is_lost_until_it_is_destroyed(cloud, provider, key):
    instance = await launched(provider, key)
    await until(provider, instance.id, InstanceStatus.RUNNING)
    cloud.preempt(instance.id)
    lost = await provider.describe(instance.id)
    cloud.resume(instance.id)
    await until(provider, instance.id, InstanceStatus.RUNNING)
    await provider.terminate(instance.id)

    assert lost.status is InstanceStatus.LOST
    assert cloud.alive() == []


async def test_a_host_that_is_lost_is_unknown_with_the_reason(cloud, provider, key):
    instance = await launched(provider, key)
    cloud.lose_host(instance.id)

    seen = await provider.describe(instance.id)

    assert (seen.status, seen.detail[:7]) == (InstanceStatus.UNKNOWN, "offline")


async def test_a_refused_or_ignored_terminate_shows(cloud, provider, key):
    instance = await launched(provider, key)
    cloud.terminate_refuses = cloud.terminate_ignored = 1

    with pytest.raises(ProviderError, match="in progress"):
        await provider.terminate(instance.id)
    await provider.terminate(instance.id)

    assert (await provider.describe(instance.id)).status.is_billing
    assert cloud.alive() == [instance.id]


async def test_rename(provider, key):
    instance = await launched(provider, key)

    assert await provider.rename(instance.id, "kept")
    assert (await provider.find("kept")).id == instance.id


def test_the_farewell_is_one_line_and_ends_with_a_power_off():
    assert "\n" not in VastAI.farewell
    assert VastAI.farewell.endswith("kill 1")


def observed(folder, programs):
    """Return a PATH with these programs only; each notes its command line in `argv`."""
    (folder / "programs").mkdir()
    for name in programs:
        real = sys.executable if name == "python3" else shutil.which(name)
        noted = f'echo {name} "$@" >> {folder}/argv; exec {real} "$@"'
        (folder / "programs" / name).write_text(f"#!/bin/sh\n{noted}\n")
        (folder / "programs" / name).chmod(0o755)
    return str(folder / "programs")


@pytest.mark.parametrize("without_curl", [False, True])
async def test_a_machine_ends_itself_and_shows_no_key(cloud, provider, key, tmp_path, without_curl):
    instance = await launched(provider, key)
    rented = cloud.account[instance.id]
    programs = ["python3", "grep", "sed", "tr", "printenv", *([] if without_curl else ["curl"])]
    environment = {**cloud.environment(rented), "PATH": observed(tmp_path, programs)}

    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", FAREWELL, env=environment)
    code = await process.wait()

    assert code == 0
    assert cloud.alive() == []
    assert rented.key not in (tmp_path / "argv").read_text()


async def test_the_key_of_a_machine_opens_nothing_else(cloud, provider, key):
    first = await launched(provider, key)
    second = await launched(provider, key, "second")
    stranger = VastAI(api_key=cloud.account[first.id].key)

    with pytest.raises(CredentialsError):
        await stranger.terminate(second.id)


@pytest.mark.parametrize("given", [None, "", "two words", "schlüssel"])
async def test_a_key_that_is_none_is_refused_without_being_shown(cloud, monkeypatch, given):
    monkeypatch.delenv("VAST_API_KEY")
    provider = VastAI(api_key=given)

    with pytest.raises(CredentialsError, match="VAST_API_KEY") as caught:
        await provider.check()

    assert provider.is_configured() is bool(given)
    assert not given or given not in str(caught.value)
