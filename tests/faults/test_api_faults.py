"""What a provider's API does wrong, and what is hired all the same, or not."""

from __future__ import annotations

import asyncio
import math
import re

import pytest
from hunt import Hunt
from proof import Figures

from blocks.providers import api, lambda_cloud, runpod
from blocks.providers.api import Api
from blocks.providers.lambda_cloud import LambdaCloud
from blocks.providers.runpod import RunPod
from blocks.providers.vast import VastAI
from blocks.registry import load_provider
from flows.renting import giving_back
from tests.clouds.cloud import Fault
from tests.flows.flow_runs import until
from trainer.errors import (
    BootError,
    CapacityError,
    ConnectionLost,
    CredentialsError,
    FundsError,
    QuotaError,
)

EVERYWHERE = pytest.mark.parametrize("scene", ["runpod", "lambda", "vast"], indirect=True)
CREATES = {
    "runpod": ("POST", "/v2/pods$"),
    "lambda": ("POST", "/launch$"),
    "vast": ("PUT", "/asks"),
}
LEDGERS = {"runpod": RunPod, "lambda": LambdaCloud, "vast": VastAI}


@pytest.fixture(autouse=True)
def quick(scene, monkeypatch):
    """Scale the providers' seconds down: those between two calls, and until a list is complete."""
    monkeypatch.setattr(VastAI, "intervals", {})
    monkeypatch.setattr(LambdaCloud, "intervals", {}, raising=False)
    for provider in LEDGERS.values():
        monkeypatch.setattr(provider, "settle_seconds", 2.0)
    if hasattr(scene.cloud, "rates"):
        scene.cloud.rates.factor = 0.0


def create_of(scene, kind, **facts):
    method, path = CREATES[scene.provider]
    return Fault(kind=kind, method=method, path=path, **facts)


def orders(scene):
    """Return how often a machine was ordered."""
    method, path = CREATES[scene.provider]
    calls = scene.cloud.calls().items()
    return sum(count for (m, p), count in calls if m == method and re.search(path, p))


# 1: too many requests.


@pytest.mark.thorough
@pytest.mark.fault(1, "429")
async def test_a_429_is_waited_for_as_long_as_it_says(scene, hunt):
    told = {"Retry-After": "1"}
    scene.cloud.faults.add(Fault(kind="status", status=429, method="POST", headers=told))

    await hunt.machine()

    assert len(scene.cloud.account) == 1
    assert [r.status for r in scene.cloud.requests if r.method == "POST"] == [429, 201]
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(1, "429")
@pytest.mark.parametrize("told", [{}, {"Retry-After": "soon"}, {"Retry-After": "0"}])
async def test_a_429_that_tells_nothing_is_no_busy_loop(scene, hunt, told, monkeypatch):
    monkeypatch.setattr(api, "RATE_PAUSE", 0.5)
    scene.cloud.faults.add(Fault(kind="status", status=429, path="/catalog", headers=told, times=8))

    await hunt.machine()

    assert sum(r.status == 429 for r in scene.cloud.requests) == 8
    assert hunt.seconds > 8 * 0.4
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(1, "429")
async def test_runs_share_the_budget_and_wait_for_the_longest_empty_window(scene, hunt):
    scene.cloud.quotas = {"minute": (5, 1.0), "hour": (6, 4.0), "day": (10**6, 86400.0)}
    others = [Hunt(scene, Figures()) for _ in range(2)]

    await asyncio.gather(hunt.machine(), *(other.machine() for other in others))

    assert len(scene.cloud.alive()) == 3
    refused = sum(r.status == 429 for r in scene.cloud.requests)
    assert refused <= len(scene.cloud.requests) / 3
    await hunt.over(*others)


# 2: answers that are none.


@pytest.mark.thorough
@pytest.mark.fault(2, "5xx, HTML, torn JSON")
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("status", 500),
        pytest.param("status", 502, marks=pytest.mark.thorough),
        pytest.param("status", 503, marks=pytest.mark.thorough),
        pytest.param("html", 200, marks=pytest.mark.thorough),
        pytest.param("html", 502, marks=pytest.mark.thorough),
        pytest.param("truncated", 200, marks=pytest.mark.thorough),
        pytest.param("empty", 200, marks=pytest.mark.thorough),
    ],
)
async def test_reading_is_repeated_when_the_answer_is_none(scene, hunt, kind, status, monkeypatch):
    monkeypatch.setattr(api, "PAUSES", (0.05, 0.1, 0.1, 0.1))
    fault = Fault(kind=kind, status=status, method="GET", times=3)
    scene.cloud.faults.add(fault)

    await hunt.machine()

    assert fault.times == 0
    assert orders(scene) == 1
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(2, "5xx, HTML, torn JSON")
@EVERYWHERE
@pytest.mark.parametrize("kind", ["truncated", "empty"])
async def test_an_order_whose_answer_is_torn_is_settled_by_name(scene, hunt, kind):
    scene.cloud.faults.add(create_of(scene, kind))

    await hunt.machine()

    assert (orders(scene), len(scene.cloud.account)) == (1, 1)
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(2, "5xx, HTML, torn JSON")
@EVERYWHERE
async def test_an_order_that_failed_and_made_nothing_leads_to_the_next_offer(scene, hunt):
    scene.cloud.faults.add(create_of(scene, "status", status=500))

    await hunt.machine()

    assert len(scene.cloud.account) == 1
    assert hunt.outcomes()[0].startswith("CapacityError: ")
    assert "Nothing came of it" in hunt.outcomes()[0]
    assert hunt.journal.hires[0].cost() == 0
    await hunt.over()


# 3: no answer at all.


def nowhere(scene, trouble):
    """Return a base URL where that is the trouble, and the host that a person must read."""
    port = scene.cloud.url.split(":")[2].split("/")[0]
    match trouble:
        case "refused":
            return "http://127.0.0.1:9/v2", "127.0.0.1"
        case "no such name":
            return "http://api.runpod.invalid/v2", "api.runpod.invalid"
        case "no TLS":
            return f"https://127.0.0.1:{port}/v2", "127.0.0.1"
    scene.cloud.faults.add(Fault(kind="silence", times=math.inf, seconds=30))
    return scene.cloud.url, "127.0.0.1"


@pytest.mark.thorough
@pytest.mark.fault(3, "API cannot be reached")
@pytest.mark.parametrize(
    "trouble",
    [
        "refused",
        pytest.param("no such name", marks=pytest.mark.thorough),
        pytest.param("no TLS", marks=pytest.mark.thorough),
        pytest.param("silence", marks=pytest.mark.thorough),
    ],
)
async def test_an_api_that_cannot_be_reached_is_given_up_and_named(
    scene, hunt, trouble, monkeypatch
):
    monkeypatch.setattr(api, "PAUSES", (0.1,))
    monkeypatch.setitem(Api.call.__kwdefaults__, "read_seconds", 1.0)
    url, host = nowhere(scene, trouble)
    monkeypatch.setenv("RUNPOD_API_URL", url)

    await hunt.fails(ConnectionLost, rf"^RunPod \({host}\) cannot be used: .+")

    assert hunt.seconds < 15
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(3, "API cannot be reached")
async def test_a_provider_that_cannot_be_reached_does_not_keep_another_from_serving(
    scene, hunt, monkeypatch
):
    monkeypatch.setattr(api, "PAUSES", (0.1,))
    monkeypatch.setenv("RUNPOD_API_URL", "http://127.0.0.1:9/v2")
    hunt.wants(provider=["runpod", "local"])

    instance = await hunt.machine()

    assert instance.provider == "local"
    await hunt.over()


# 4 to 6: created, and not known to be.


@pytest.mark.fault(4, "create committed, answer lost")
@pytest.mark.parametrize(
    ("scene", "kind"),
    [
        ("runpod", "commit_then_drop"),
        *(
            pytest.param(name, kind, marks=pytest.mark.thorough)
            for name in CREATES
            for kind in ("commit_then_drop", "commit_then_status", "commit_then_silence")
            if (name, kind) != ("runpod", "commit_then_drop")
        ),
    ],
    indirect=["scene"],
)
async def test_a_machine_whose_order_was_not_answered_is_adopted(scene, hunt, kind, monkeypatch):
    monkeypatch.setattr(runpod, "CREATE_SECONDS", 1.0)
    monkeypatch.setattr(lambda_cloud, "LAUNCH_SECONDS", 1.0)
    monkeypatch.setitem(Api.call.__kwdefaults__, "read_seconds", 1.0)
    scene.cloud.faults.add(create_of(scene, kind, seconds=30))
    scene.cloud.list_lag = 0.7

    await hunt.machine()

    assert (orders(scene), len(scene.cloud.account)) == (1, 1)
    assert hunt.outcomes() == ["in use"]
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(5, "create answered with an error and an id")
@pytest.mark.parametrize("scene", ["vast"], indirect=True)
async def test_what_an_order_made_that_was_refused_is_destroyed(scene, hunt):
    """A bid below the minimum, which rose between the search and the order, makes an instance."""
    hunt.wants(resources={"gpu_count": 1, "spot": True})
    real = scene.cloud._ordered

    def outbid(asked, ask, id):
        if not scene.cloud.account:
            ask.min_bid *= 10
        return real(asked, ask, id)

    scene.cloud._ordered = outbid
    await hunt.machine()

    first, second = scene.cloud.all
    assert hunt.outcomes()[0].startswith("CapacityError: ")
    assert f"Instance {first.id} is destroyed" in hunt.outcomes()[0]
    assert first.gone
    assert scene.cloud.alive() == [second.id]
    await hunt.over(unbooked=[first.id])


@pytest.mark.thorough
@pytest.mark.fault(6, "list lags behind create")
@EVERYWHERE
async def test_a_machine_that_is_not_listed_yet_is_neither_gone_nor_hired_twice(
    scene, hunt, monkeypatch
):
    monkeypatch.setattr(LEDGERS[scene.provider], "settle_seconds", 8.0)
    scene.cloud.boot_seconds = 3.0
    scene.cloud.list_lag = 4.0
    dying = asyncio.create_task(hunt.machine())
    await until(lambda: hunt.journal.hires and hunt.journal.hires[0].instance_id)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)

    instance = await hunt.machine()

    assert list(scene.cloud.account) == [instance.id]
    assert hunt.outcomes() == ["in use"]
    await hunt.over()


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
@EVERYWHERE
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
@EVERYWHERE
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

    await hunt.fails(CapacityError, "did not run within 0.04 minutes; it is ")

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
    ["runpod", *(pytest.param(n, marks=pytest.mark.thorough) for n in ("lambda", "vast"))],
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
    assert row["outcome"] == "stopped (it refuses to go)"
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

    assert hunt.seconds < 15
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
