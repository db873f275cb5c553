"""An API that is slow, wrong or away: nothing is hired twice, nothing is lost."""

from __future__ import annotations

import asyncio
import math

import pytest

from blocks.providers import api, azure, lambda_cloud, runpod
from blocks.providers.api import Api
from tests.clouds.cloud import Fault
from tests.faults.api.api_trouble import CREATES, EVERYWHERE, LEDGERS, orders
from tests.faults.hunt import Hunt
from tests.faults.proof import Figures
from tests.waiting import until
from trainer.contract.errors import (
    ConnectionLost,
)


def create_of(scene, kind, **facts):
    method, path = CREATES[scene.provider]
    return Fault(kind=kind, method=method, path=path, **facts)


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

    assert hunt.seconds < 60
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
    monkeypatch.setattr(azure, "ORDER_SECONDS", 1.0)
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
