"""Vast.ai: offers, bids and orders, whatever becomes of the answer."""

import math
import os

import pytest

from blocks.models import InstanceStatus
from tests.blocks.providers.rented_account import mark, true, until
from tests.blocks.providers.vast.vast_account import ASKS, answered, launched, offered
from tests.clouds.cloud import Fault
from tests.clouds.vast_catalog import Ask
from trainer.contract.errors import (
    CapacityError,
    FundsError,
)


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
        ({"gpu_count": 2}, {}, ["106"]),
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
    assert (running.mark, running.gpu_count, running.gpu_type) == (mark(), 1, "RTX 4090")
    assert running.price_per_hour == pytest.approx(instance.price_per_hour, abs=1e-6)
    assert (await provider.describe(instance.id)).status is InstanceStatus.ABSENT
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
    await provider.remark(instance.id, mark(2))
    await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.ABSENT)

    assert [
        it for it in cloud.contract.violations if not any(w in it for w in KNOWN_TO_BE_WRONG)
    ] == []
    assert cloud.contract.checked > 5 or "OPENAPI_DIR" not in os.environ


async def test_an_order_is_complete(cloud, provider, key):
    instance = await launched(provider, key, disk_gb=100)

    asked = cloud.account[instance.id].facts["asked"]
    assert (asked["label"], asked["runtype"], asked["cancel_unavail"]) == (
        str(mark()),
        "ssh_direct",
        True,
    )
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
    instance = await provider.launch(cheap, mark(), key)

    assert dear.price_per_hour == pytest.approx(1.2 * 1.1 + storage, abs=1e-6)
    assert cheap.price_per_hour == 1.25
    assert cloud.account[instance.id].facts["asked"]["price"] == pytest.approx(1.25 - storage)
    assert (await provider.describe(instance.id)).spot


async def test_a_bid_that_is_too_low_by_then_is_destroyed(cloud, provider, key):
    offer = (await offered(provider, spot=True))[0]
    bid = await provider._check_on_sale(offer)
    cloud.asks[102].min_bid = 9.0

    with pytest.raises(CapacityError, match="is destroyed"):
        await provider._accept(offer, mark(), key, bid)

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
    cloud.list_lag, cloud.boot_seconds = math.inf, 600.0
    instance = await launched(provider, key)

    assert (await provider.describe(instance.id)).status is InstanceStatus.PROVISIONING


async def test_all_pages_of_instances_are_read(cloud, provider, key):
    for number in range(30):
        cloud.asks[number] = Ask(
            id=number, gpu_name="RTX 3090", gpu_ram=24_576, price=0.1, min_bid=0.1
        )
        offer = (await offered(provider, gpu_types=["RTX 3090"]))[0]
        await provider._accept(offer, mark(number + 1), key, None)

    assert len(await provider.instances()) == 30
