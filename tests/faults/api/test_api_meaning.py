"""What an API means: sold out, refused, unpaid, unknown, dearer, and not going."""

from __future__ import annotations

import asyncio
import math

import pytest

from blocks.providers import api
from blocks.registry import load_provider
from flows.renting import giving_back, liveness
from tests.clouds.cloud import Fault
from tests.faults.api.api_trouble import ELSEWHERE, EVERYWHERE, orders
from tests.waiting import until
from trainer.contract.errors import (
    BootError,
    CapacityError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    MachineLost,
    QuotaError,
)

# 7 and 8: refusals.


@pytest.mark.fault(7, "no capacity, quota, price")
async def test_an_offer_that_is_sold_out_leads_to_the_next_and_the_table_tells_why(scene, hunt):
    scene.cloud.no_capacity = {"cpu3c"}

    instance = await hunt.machine()

    assert instance.instance_type.startswith("cpu3g")
    first, second = hunt.journal.table()
    assert first["outcome"].startswith("CapacityError: No cpu3c")
    assert (first["USD"], second["outcome"]) == (0, "in use")
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(7, "no capacity, quota, price")
@ELSEWHERE
async def test_when_everything_is_sold_out_the_error_names_every_offer(scene, hunt):
    scene.cloud.no_capacity = True
    hunt.wants(limits={"max_offers": 3})

    error = await hunt.fails(CapacityError, r"^None of \d offers led to a machine: ")

    assert error.message.count(f"{scene.provider} ") == len(hunt.journal.hires) <= 3
    assert all(hire.cost() == 0 for hire in hunt.journal.hires)
    assert not any(hire.is_open for hire in hunt.journal.hires)
    await hunt.over(unbooked=scene.cloud.account)


@pytest.mark.thorough
@pytest.mark.fault(7, "no capacity, quota, price")
async def test_what_the_account_may_not_have_leads_to_the_next_offer(scene, hunt):
    scene.cloud.forbidden = {"cpu3c"}

    await hunt.machine()

    assert hunt.outcomes()[0].startswith("CapacityError: No cpu3c")
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(7, "no capacity, quota, price")
@pytest.mark.parametrize("scene", ["lambda"], indirect=True)
async def test_a_quota_is_told_as_a_quota(scene, hunt):
    scene.cloud.quota_exceeded = True

    await hunt.fails(CapacityError, "Quota exceeded")

    assert all(outcome.startswith(QuotaError.__name__) for outcome in hunt.outcomes())
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(7, "no capacity, quota, price")
@EVERYWHERE
async def test_what_costs_more_than_the_cap_is_not_ordered(scene, hunt):
    hunt.wants(limits={"max_price_per_hour": 0.0001})

    await hunt.fails(CapacityError, r"0\.0001")

    assert orders(scene) == 0
    await hunt.over()


@pytest.mark.fault(8, "bad key, no funds")
@pytest.mark.parametrize(
    "scene",
    ["runpod", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("lambda", "vast"))],
    indirect=True,
)
@pytest.mark.parametrize("trouble", [pytest.param("wrong", marks=pytest.mark.thorough), "expired"])
async def test_a_bad_key_stops_everything_at_once(scene, hunt, trouble, monkeypatch):
    variable = scene.cloud.key_variable
    if trouble == "wrong":
        monkeypatch.setenv(variable, "a-wrong-key")
    scene.cloud.expired = trouble == "expired"

    error = await hunt.fails(CredentialsError, "(?i)key")

    assert variable in error.suggestion
    assert "a-wrong-key" not in str(error)
    assert scene.cloud.key not in str(error)
    assert orders(scene) == 0
    assert len(scene.cloud.requests) <= 4
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(8, "bad key, no funds")
@ELSEWHERE
async def test_an_account_that_cannot_pay_is_asked_once(scene, hunt):
    scene.cloud.no_funds = True

    error = await hunt.fails(FundsError, "(?i)insufficient|credit|inactive")

    assert orders(scene) == 1
    assert error.suggestion
    await hunt.over()


# 9: answers of another version.


@pytest.mark.thorough
@pytest.mark.fault(9, "unknown words and fields")
@EVERYWHERE
async def test_a_status_that_nobody_knows_counts_as_billing_until_the_deadline(scene, hunt):
    scene.cloud.unknown_status = "hibernating"
    hunt.wants(limits={"boot_timeout_minutes": 0.04, "max_offers": 1})

    await hunt.fails(CapacityError, "was not running after 0.04 minutes; it is ")

    assert hunt.outcomes()[0].startswith(BootError.__name__)
    assert hunt.journal.hires[0].cost() > 0
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(9, "unknown words and fields")
@EVERYWHERE
async def test_fields_that_nobody_knows_are_passed_over(scene, hunt):
    scene.cloud.extra_fields = True

    await hunt.machine()

    await hunt.over()


FIELDS = {
    "azure": (
        "properties",
        "tags",
        "instanceView",
        "hardwareProfile",
        "statuses",
        "nextLink",
        "ipAddress",
    ),
    "gcp": ("status", "labels", "networkInterfaces", "machineType", "scheduling", "disks", "zone"),
    "runpod": ("status", "name", "ssh", "cost", "gpu", "cpu", "dataCenterId", "env", "pagination"),
    "lambda": ("status", "name", "ip", "region", "instance_type", "price_cents_per_hour", "tags"),
    "vast": ("actual_status", "label", "ports", "ssh_host", "dph_total", "extra_env", "gpu_name"),
}


@pytest.mark.thorough
@pytest.mark.fault(9, "unknown words and fields")
@EVERYWHERE
@pytest.mark.parametrize("switch", ["missing_fields", "null_fields"])
async def test_an_instance_that_is_told_in_part_is_never_called_gone(scene, hunt, switch):
    instance = await hunt.machine()
    provider = await load_provider(scene.provider)
    for field in FIELDS[scene.provider]:
        setattr(scene.cloud, switch, {field})
        for shared in ("pods", "instances"):
            provider._api().forget(shared)
        seen = await provider.describe(instance.id)
        assert seen.status.is_billing, field
        assert seen.id == instance.id

    setattr(scene.cloud, switch, set())
    await hunt.over()


# 10 to 12: ends and prices.


@pytest.mark.thorough
@pytest.mark.fault(10, "terminate refused or ignored")
@pytest.mark.parametrize(
    "scene",
    [
        "runpod",
        *(pytest.param(n, marks=pytest.mark.thorough) for n in ("azure", "gcp", "lambda", "vast")),
    ],
    indirect=True,
)
async def test_a_machine_that_refuses_to_go_is_asked_until_it_is_gone(scene, hunt, monkeypatch):
    monkeypatch.setattr(giving_back, "AGAIN_SECONDS", 1.0)
    await hunt.machine()

    scene.cloud.terminate_refuses, scene.cloud.terminate_ignored = 2, 1
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(10, "terminate refused or ignored")
async def test_a_machine_that_never_goes_is_reported_charged_and_met_again(
    scene, hunt, monkeypatch, caplog
):
    await hunt.machine()
    scene.cloud.terminate_refuses = 10**6
    journal = hunt.journal
    monkeypatch.setattr(giving_back, "PATIENCE_SECONDS", 1.0)

    assert not await giving_back.give_back(journal, journal.hires[0], "stopped")

    assert "is not gone yet and may cost" in caplog.text
    [row] = hunt.journal.table()
    assert row["outcome"] == "stopped (the provider has not ended it)"
    cost = hunt.journal.cost()
    await until(lambda: hunt.journal.cost() > cost)
    scene.cloud.terminate_refuses = 0
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(12, "price changes")
async def test_a_machine_that_got_dearer_is_given_back_unused(scene, hunt):
    scene.cloud.price_factor = 1.5
    hunt.wants(limits={"max_offers": 2})

    await hunt.fails(CapacityError, "was offered for")

    assert len(scene.cloud.account) == 2
    await hunt.over(unbooked=scene.cloud.account)


@pytest.mark.thorough
@pytest.mark.fault(12, "price changes")
async def test_a_price_above_the_cap_is_refused_before_the_machine_boots(scene, hunt):
    scene.cloud.price_factor, scene.cloud.boot_seconds = 1.04, 30.0
    hunt.wants(limits={"max_price_per_hour": 0.121, "max_offers": 2})  # cpu3c is offered at 0.12

    await hunt.fails(CapacityError, r"is billed at 0\.1248 USD/h, more than")

    assert hunt.seconds < scene.cloud.boot_seconds
    assert hunt.journal.hires[0].price_per_hour == 0.1248
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(12, "price changes")
async def test_a_little_more_is_metered_as_billed(scene, hunt):
    scene.cloud.price_factor = 1.04

    await hunt.machine()
    await hunt.over()

    [(_, _, _, cost)] = scene.cloud.billing()
    assert hunt.journal.cost() == pytest.approx(cost, abs=0.1248 * 3 / 3600)


@pytest.mark.thorough
@pytest.mark.fault(12, "price changes")
@pytest.mark.parametrize("scene", ["lambda", "vast"], indirect=True)
async def test_what_is_billed_counts_where_an_order_is_answered_with_its_offer(scene, hunt):
    order, factors = scene.cloud.rent, iter((1.5,))

    def dearer(rented):
        factor = next(factors, 1.0)
        rented.price_per_hour *= factor
        if "cents" in rented.facts:
            rented.facts["cents"] = round(rented.facts["cents"] * factor)
        return order(rented)

    scene.cloud.rent = dearer

    instance = await hunt.machine()

    first, second = hunt.outcomes()
    assert "was offered for" in first
    assert second == "in use"
    assert scene.cloud.alive() == [instance.id]
    assert hunt.journal.hires[0].price_per_hour > 1.4 * hunt.journal.hires[0].offered_per_hour
    await hunt.over()


@pytest.mark.fault(12, "price changes")
async def test_a_machine_that_becomes_dearer_than_the_job_allows_is_left(scene, hunt, monkeypatch):
    monkeypatch.setattr(liveness, "LOOK_SECONDS", 0.1)
    hunt.wants(limits={"max_price_per_hour": 0.121})
    instance = await hunt.machine()
    provider = await load_provider(instance.provider)
    watching = asyncio.create_task(
        liveness.watch_provider(hunt.job, provider, instance, hunt.journal)
    )

    scene.cloud.account[instance.id].price_per_hour = 0.13

    with pytest.raises(MachineLost, match=r"is billed at 0\.13 USD/h, more than"):
        await asyncio.wait_for(watching, 20)
    assert hunt.journal.hires[0].price_per_hour == 0.13
    await hunt.over()


# 17 of the own troubles: an order that never went out.


@pytest.mark.fault(62, "an order that never went out")
@pytest.mark.parametrize(
    "scene",
    [
        "runpod",
        *(pytest.param(n, marks=pytest.mark.thorough) for n in ("azure", "gcp", "lambda", "vast")),
    ],
    indirect=True,
)
async def test_an_order_that_never_went_out_bills_nothing(scene, hunt, monkeypatch):
    monkeypatch.setattr(api, "PAUSES", (0.01, 0.01))
    lists = {
        "runpod": "/pods$",
        "azure": "/virtualMachines$",
        "gcp": "/aggregated/instances$",
        "lambda": "/instances$",
        "vast": "/instances/$",
    }
    away = Fault(kind="status", status=503, path=lists[scene.provider], times=math.inf)
    scene.cloud.faults.add(away)

    await hunt.fails(ConnectionLost, "HTTP 503")
    await asyncio.sleep(0.1)

    assert orders(scene) == 0
    assert hunt.journal.hires
    assert hunt.journal.cost() == 0
    scene.cloud.faults.clear()
    await hunt.over()
