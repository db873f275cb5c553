"""What Azure offers: sizes, restrictions, quotas and prices; and what `check` finds."""

import json
import re
from pathlib import Path

import pytest

from blocks.providers.azure import prices, rights
from flows.renting.choosing import Choosing
from flows.renting.market import Choice, Market
from tests.blocks.providers.azure.azure_account import launched, offers
from tests.blocks.providers.rented_account import mark
from tests.clouds.cloud import Fault
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    ConnectionLost,
    CredentialsError,
    ProviderError,
    QuotaError,
)

T4, A100 = "Standard_NC4as_T4_v3", "Standard_NC24ads_A100_v4"
PAGE = Path(__file__).parents[4] / "docs" / "azure.md"


async def test_sizes_with_a_gpu_that_is_known_are_offered_in_every_location(provider):
    found = await offers(provider)

    kinds = [(one.instance_type, one.region) for one in found]
    assert kinds[:2] == [(T4, "swedencentral"), (T4, "westeurope")]
    assert {kind for kind, _ in kinds} == {T4, "Standard_NC8as_T4_v3", A100}
    first = found[0]
    assert (first.gpu_type, first.vram_gb, first.price_per_hour) == ("Tesla T4", 16, 0.526)
    # Disk and address are billed beside the machine.
    assert first.whole_per_hour == pytest.approx(0.526 + 128 * 0.075 / 730 + 0.005)


async def test_what_a_job_asks_for_decides(provider):
    async def kinds(**resources):
        return {one.instance_type for one in await offers(provider, **resources)}

    assert await kinds(gpu_types=["A100"]) == {A100}
    assert await kinds(min_vram_gb=40) == {A100}
    assert await kinds(min_ram_gb=50, regions=["WestEurope"]) == {"Standard_NC8as_T4_v3", A100}
    assert await kinds(gpu_count=2) == {"Standard_NC48ads_A100_v4"}
    assert await kinds(gpu_count=0) == {"Standard_D4s_v5"}


async def test_a_disk_is_as_large_as_a_job_asks_beside_the_image(cloud, provider, key):
    [usual, *_] = await offers(provider)
    [large, *_] = await offers(provider, disk_gb=500)

    assert (usual.storage_gb, large.storage_gb) == (128, 548)
    assert large.disk_gb == 500
    hired = await provider.launch(large, mark(), key)
    assert (await provider.describe(hired.id)).storage_gb == 548


async def test_each_size_is_a_kind_of_its_own_and_each_location_a_place_for_it(provider):
    """By `limits.max_offers` so many kinds are tried, each wherever it is to be had."""
    found = Market(choices=[Choice(provider, offer) for offer in await offers(provider)])
    choosing, tried = Choosing(nodes=1, most=2), []
    while chosen := choosing.next(found):
        tried.append(chosen[0].offer.instance_type)
        choosing.failed(chosen[0], CapacityError("sold out"), "sold out")

    assert len(tried) == 4
    assert set(tried) == {T4, "Standard_NC8as_T4_v3"}


async def test_spot_machines_have_their_own_price_and_quota(cloud, provider):
    [either, *_] = await offers(provider, spot=None, gpu_types=["T4"])
    [spot, *_] = await offers(provider, spot=True, gpu_types=["T4"])

    assert (either.spot, spot.spot) == (True, True)
    assert spot.price_per_hour == cloud.sizes[T4].spot_price
    for location in cloud.limits.values():
        location["lowPriorityCores"] = 0
    with pytest.raises(CapacityError, match="lowPriorityCores"):
        await offers(provider, spot=True)
    assert not (await offers(provider, spot=None))[0].spot


async def test_a_restriction_of_the_location_excludes_it_and_one_of_a_zone_only_that(
    cloud, provider
):
    cloud.sizes[T4].restricted = {"westeurope": [], "swedencentral": ["1"]}
    assert [one.region for one in await offers(provider) if one.instance_type == T4] == [
        "swedencentral"
    ]

    provider.zones = ["1", "2"]
    assert [one.zone for one in await offers(provider) if one.instance_type == T4] == ["2"]


async def test_a_family_without_quota_is_not_offered_and_named_where_nothing_else_is(
    cloud, provider
):
    for quotas in cloud.limits.values():
        quotas["Standard NCASv3_T4 Family"] = 4
    assert "Standard_NC8as_T4_v3" not in {one.instance_type for one in await offers(provider)}

    for quotas in cloud.limits.values():
        quotas |= {"Standard NCASv3_T4 Family": 0, "standardNCADSA100v4Family": 23}
    with pytest.raises(CapacityError) as caught:
        await offers(provider)
    assert "standardNCADSA100v4Family in westeurope has 0 of 23 vCPUs" in caught.value.message


async def test_a_quota_that_was_refused_spares_the_orders_of_its_whole_family(cloud, provider, key):
    small, large = [o for o in await offers(provider, gpu_types=["T4"]) if o.region == "westeurope"]
    cloud.limits["westeurope"]["Standard NCASv3_T4 Family"] = 0
    with pytest.raises(QuotaError, match="Standard NCASv3_T4 Family"):
        await provider.launch(small, mark(1), key)
    ordered = len([one for one in cloud.requests if one.method == "PUT"])

    with pytest.raises(QuotaError, match="Standard NCASv3_T4 Family"):
        await provider.launch(large, mark(2), key)

    assert len([one for one in cloud.requests if one.method == "PUT"]) == ordered
    other = (await offers(provider, gpu_types=["A100"]))[0]
    assert (await provider.launch(other, mark(3), key)).mark == mark(3)


async def test_the_quota_of_spot_machines_rules_out_spot_machines_alone(cloud, provider, key):
    found = await offers(provider, spot=None, gpu_types=["T4"], regions=["westeurope"])
    first, second, firm, _ = found
    assert (first.spot, second.spot, firm.spot) == (True, True, False)
    cloud.limits["westeurope"]["lowPriorityCores"] = 0
    with pytest.raises(QuotaError, match="LowPriorityCores"):
        await provider.launch(first, mark(1), key)
    ordered = len([one for one in cloud.requests if one.method == "PUT"])
    with pytest.raises(QuotaError, match="lowPriorityCores"):
        await provider.launch(second, mark(2), key)
    assert len([one for one in cloud.requests if one.method == "PUT"]) == ordered

    assert (await provider.launch(firm, mark(3), key)).mark == mark(3)
    choosing = Choosing(nodes=1, most=9)
    choosing.failed(Choice(provider, first), CapacityError("sold out"), "sold out")
    [left] = choosing.next(Market(choices=[Choice(provider, one) for one in (first, firm)]))
    assert not left.offer.spot


async def test_a_price_list_that_is_away_keeps_nobody_from_hiring(cloud, provider, monkeypatch):
    cloud.faults.add(Fault(kind="status", status=503, path="/api/retail", times=99))

    [first, *_] = await offers(provider)

    assert first.price_per_hour is None
    with pytest.raises(CapacityError, match="unknown price"):
        await provider.offers(Resources(gpu_count=1), Limits(max_price_per_hour=9))
    asked = [one for one in cloud.requests if one.path == "/api/retail/prices"]
    assert len(asked) == 6  # three tries in each of two locations, and none for the next search
    cloud.faults.clear()
    monkeypatch.setattr(prices, "AWAY_SECONDS", 0.0)
    assert (await offers(provider))[0].price_per_hour == 0.526


async def test_a_size_without_a_price_is_not_asked_for_again(cloud, provider, monkeypatch):
    monkeypatch.setattr(type(cloud.sizes[T4]), "prices", lambda *_: iter(()))

    assert {one.price_per_hour for one in await offers(provider)} == {None}
    await offers(provider)

    assert len([one for one in cloud.requests if one.path == "/api/retail/prices"]) == 2


async def test_regions_of_other_providers_are_passed_over(cloud, provider):
    found = await offers(provider, regions=["us-east-1", "swedencentral"])
    assert {one.region for one in found} == {"swedencentral"}

    with pytest.raises(CapacityError, match="is set up for westeurope"):
        await offers(provider, regions=["us-east-1", "../x"])


async def test_prices_are_asked_for_once_a_day_and_without_the_token(cloud, provider):
    await offers(provider)
    await offers(provider)

    asked = [one for one in cloud.requests if one.path == "/api/retail/prices"]
    assert len(asked) == 2  # one a location


async def test_pages_are_followed_on_our_own_host_only(cloud, provider, key):
    for attempt in (1, 2):
        await launched(provider, key, attempt)
    cloud.page_size = 4
    assert len(await offers(provider)) == 6
    cloud.page_size = 1
    assert len(await provider.instances()) == 2
    cloud.next_host = "evil.example"

    with pytest.raises(ProviderError, match=r"evil\.example.*which is not 127\.0\.0\.1"):
        await provider.instances()


@pytest.mark.thorough
async def test_a_page_that_fails_is_no_end_of_the_list(cloud, provider, key):
    for attempt in (1, 2):
        await launched(provider, key, attempt)
    cloud.page_size = 1
    broken = Fault(kind="status", status=502, path="/virtualMachines$", method="GET", times=99)
    cloud.faults.add(Fault(kind="delay", path="/virtualMachines$", seconds=0), broken)

    with pytest.raises(ConnectionLost):
        await provider.instances()

    cloud.faults.clear()
    assert len(await provider.instances()) == 2


async def test_check_says_what_it_found_and_spends_nothing(cloud, provider):
    said = await provider.check()

    assert said == (
        "0 machines in training, westeurope, swedencentral; without us stopped by a schedule"
    )
    assert {one.method for one in cloud.requests} == {"GET"}


@pytest.mark.parametrize("namespace", ["Microsoft.DevTestLab"])
async def test_check_names_a_resource_provider_that_is_not_registered(cloud, provider, namespace):
    cloud.unregistered = {namespace}

    with pytest.raises(ConfigError) as caught:
        await provider.check()

    assert caught.value.suggestion == f"Run: az provider register --namespace {namespace}"


@pytest.mark.parametrize(
    "right",
    ["Microsoft.Network/virtualNetworks/subnets/join/action", "Microsoft.Compute/skus/read"],
)
async def test_check_names_a_right_that_is_missing(cloud, provider, right):
    cloud.rights.remove(right)

    with pytest.raises(CredentialsError, match=re.escape(right)):
        await provider.check()


async def test_check_wants_no_right_to_make_a_group_that_is_there(cloud, provider):
    cloud.rights.remove(rights.MAKE_GROUP)
    with pytest.raises(CredentialsError, match="resourceGroups/write"):
        await provider.check()

    cloud.groups["training"] = "Succeeded"
    await provider.check()


def test_patterns_of_rights_are_read_as_azure_means_them():
    owner = {"actions": ["*"], "notActions": ["Microsoft.Compute/disks/*"]}

    assert rights._allows(owner, "microsoft.compute/virtualMachines/write")
    assert not rights._allows(owner, "Microsoft.Compute/disks/delete")
    assert not rights._allows({"actions": ["*/read"]}, "Microsoft.Compute/disks/delete")
    assert not rights._allows({}, "Microsoft.Compute/disks/delete")


def test_the_page_has_the_roles_that_are_checked():
    roles = [
        json.loads(role) for role in re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    ]

    assert [sorted(role["Actions"]) for role in roles] == [
        sorted(rights.IN_GROUP),
        sorted(rights.IN_ACCOUNT),
        ["Microsoft.Compute/virtualMachines/delete"],
    ]
