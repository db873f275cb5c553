"""Google Cloud: offers, quotas, orders that fail at once, late, or not at all."""

import asyncio
import sys

import pytest

from blocks.models import InstanceStatus
from blocks.providers import gcp
from blocks.providers.gcp import GoogleCloud
from tests.blocks.providers.gcp.gcp_account import INSERT, asked, launched, offered
from tests.blocks.providers.rented_account import mark, until
from tests.clouds.cloud import Fault
from tests.clouds.gcp_refusals import quota_exceeded, sold_out
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    CredentialsError,
    DependencyError,
    ProviderError,
    QuotaError,
    Scope,
)


async def test_offers_are_kinds_by_zone_cheapest_first_with_disk_and_address_beside(provider):
    offers = await offered(provider, spot=None)

    first = offers[0]
    assert (first.instance_type, first.spot, first.price_per_hour) == (
        "g2-standard-4",
        True,
        0.2827,
    )
    assert (first.region, first.zone) == ("us-central1", "us-central1-a")
    assert (first.storage_gb, first.storage_price, first.beside_per_hour) == (100, 0.1, 0.0025)
    assert {offer.region for offer in offers} == {"us-central1", "europe-west4"}  # GCP_REGIONS
    assert len({(o.instance_type, o.zone, o.id) for o in offers}) == len(offers)


@pytest.mark.parametrize(
    ("resources", "limits", "kinds"),
    [
        ({"gpu_types": ["A100"], "min_vram_gb": 80}, {}, {"a2-ultragpu-1g"}),
        ({"gpu_types": ["T4"], "gpu_count": 2}, {}, {"n1-standard-16+2xnvidia-tesla-t4"}),
        ({"gpu_count": 0}, {"max_price_per_hour": 0.2}, {"e2-standard-4"}),
        ({"min_ram_gb": 100, "gpu_types": ["L4"]}, {}, {"g2-standard-32"}),
    ],
)
async def test_offers_are_filtered(provider, resources, limits, kinds):
    offers = await provider.offers(Resources(**resources), Limits(**limits))

    assert {offer.instance_type for offer in offers} == kinds


async def test_kinds_that_are_spot_only_are_offered_as_such(provider):
    one_h100 = {"gpu_types": ["H100"], "gpu_count": 1}

    assert {offer.spot for offer in await offered(provider, **one_h100, spot=None)} == {True}
    with pytest.raises(CapacityError, match="no kind of machine that fits"):
        await offered(provider, **one_h100)
    assert await offered(provider, gpu_types=["H100"], gpu_count=8)


async def test_what_is_in_no_place_that_is_allowed_is_a_lack_of_capacity(provider, monkeypatch):
    with pytest.raises(CapacityError, match="mars-north1"):
        await offered(provider, regions=["mars-north1"])
    monkeypatch.setenv("GCP_ZONES", "us-east1-b")
    monkeypatch.delenv("GCP_REGIONS")

    assert {offer.zone for offer in await offered(provider)} == {"us-east1-b"}


async def test_a_region_without_quota_is_not_offered(cloud, provider):
    left = cloud.quotas["us-central1"]
    left["NVIDIA_L4_GPUS"] = left["PREEMPTIBLE_NVIDIA_L4_GPUS"] = 0.0

    assert {offer.region for offer in await offered(provider)} == {"europe-west4"}
    # What is to be deleted within a week may draw on the quota for spot machines.
    left["PREEMPTIBLE_NVIDIA_L4_GPUS"] = 1.0
    assert {offer.region for offer in await offered(provider)} >= {"us-central1"}
    assert "us-central1" not in {offer.region for offer in await offered(provider, gpu_count=2)}


async def test_a_project_without_quota_orders_nothing_and_is_told_where_to_ask(cloud, provider):
    cloud.quotas[""]["GPUS_ALL_REGIONS"] = 0.0

    with pytest.raises(QuotaError, match="GPUS_ALL_REGIONS: 0 left") as caught:
        await offered(provider)

    assert caught.value.scope is Scope.ACCOUNT
    assert "iam-admin/quotas" in caught.value.suggestion


async def test_a_quota_that_is_not_reported_rules_nothing_out(cloud, provider):
    cloud.unsaid = {*cloud.quotas["us-central1"], "GPUS_ALL_REGIONS"}

    assert await offered(provider)


async def test_an_order_says_all_that_it_must(cloud, provider, key):
    await launched(provider, key, script="true", seconds=7200.4, spot=True, disk_gb=150)

    [rented] = cloud.all
    body = rented.facts["asked"]
    [disk] = body["disks"]
    items = {one["key"]: one["value"] for one in body["metadata"]["items"]}
    assert body["name"] == body["labels"]["to-name"] == str(mark())
    assert disk["autoDelete"] is True
    assert disk["initializeParams"]["diskSizeGb"] == "200"  # the image is on it too
    assert disk["initializeParams"]["labels"]["to-name"] == str(mark())
    assert body["scheduling"] == {
        "automaticRestart": False,
        "onHostMaintenance": "TERMINATE",
        "provisioningModel": "SPOT",
        "preemptionNoticeDuration": {"seconds": "120"},
        "maxRunDuration": {"seconds": "7200"},
        "instanceTerminationAction": "DELETE",
    }
    assert (items["enable-oslogin"], items["block-project-ssh-keys"]) == ("FALSE", "TRUE")
    assert items["ssh-keys"].endswith(key)
    assert items["startup-script"] == "#!/bin/sh\ntrue\n"
    assert "serviceAccounts" not in body


@pytest.mark.parametrize(("seconds", "said"), [(1.0, "30"), (1e9, "10368000")])
async def test_a_latest_end_is_within_what_google_takes(cloud, provider, key, seconds, said):
    instance = await launched(provider, key, seconds=seconds)

    assert asked(cloud, instance)["scheduling"]["maxRunDuration"] == {"seconds": said}


async def test_gpus_that_are_attached_are_ordered(cloud, provider, key):
    instance = await launched(provider, key, gpu_types=["T4"])

    [one] = asked(cloud, instance)["guestAccelerators"]
    assert one["acceleratorType"].endswith("/nvidia-tesla-t4")
    assert (await provider.describe(instance.id)).instance_type == instance.instance_type


async def test_an_order_that_is_sent_again_hires_nothing_more(cloud, provider, key):
    cloud.list_lag = 60.0  # so that the next launch does not find the first one's machine

    first, again = await launched(provider, key), await launched(provider, key)

    assert first.id == again.id
    assert len(cloud.all) == 1
    assert len([one for one in cloud.operations.all if one.kind == "insert"]) == 1


async def test_a_name_that_is_taken_is_ours_only_with_our_label(cloud, provider, key):
    first = await launched(provider, key)
    cloud.list_lag = 60.0
    cloud.operations.all.clear()  # an hour has passed: the order's id is forgotten

    assert (await launched(provider, key)).id == first.id
    cloud.account[first.id].name = "somebody-else"
    with pytest.raises(ProviderError, match="already exists"):
        await launched(provider, key)
    assert len(cloud.all) == 1


async def test_one_name_can_be_hired_in_two_zones(cloud, provider, key):
    offers = [offer for offer in await offered(provider) if offer.instance_type == "g2-standard-4"]
    cloud.list_lag = 60.0

    hired = [await provider.launch(offer, mark(), key) for offer in offers[:2]]

    # So every attempt has a mark of its own.
    assert len({one.id for one in hired}) == len(cloud.alive()) == 2


async def test_a_sold_out_zone_is_heard_of_at_once_with_the_zones_that_have_some(
    cloud, provider, key
):
    cloud.no_capacity, cloud.named_zones = True, "us-central1-b,us-central1-c"

    with pytest.raises(CapacityError, match="enough resources") as caught:
        await launched(provider, key)

    assert caught.value.zones == ("us-central1-b", "us-central1-c")
    assert cloud.alive() == []


async def test_an_order_that_fails_late_is_a_failure_of_its_instance(
    cloud, provider, key, monkeypatch
):
    monkeypatch.setattr(gcp, "FOLLOW_SECONDS", 0.0)
    cloud.operation_seconds = 0.5
    cloud.late = [sold_out("us-central1-a", "g2-standard-4", "us-central1-b")]

    instance = await launched(provider, key)
    early = await provider.describe(instance.id)
    gone = await until(provider, instance.id, InstanceStatus.GONE)

    assert (instance.failure, early.failure) == (None, None)
    assert early.status is InstanceStatus.PROVISIONING
    assert type(gone.failure) is CapacityError
    assert gone.failure.zones == ("us-central1-b",)
    assert cloud.alive() == []


@pytest.mark.parametrize("follow", [0.0, 5.0], ids=["late", "at once"])
async def test_what_a_failed_order_leaves_is_an_instance_until_it_is_ended(
    cloud, provider, key, monkeypatch, follow
):
    monkeypatch.setattr(gcp, "FOLLOW_SECONDS", follow)
    words = "Instance failed to start due to preemption."
    cloud.late, cloud.leaves = [{"code": "UNSUPPORTED_OPERATION", "message": words}], True

    instance = await launched(provider, key, spot=True)
    left = await until(provider, instance.id, InstanceStatus.LOST)

    assert type(left.failure) is CapacityError
    assert (instance.failure is None) == (follow == 0.0)
    assert cloud.alive() == [instance.id]
    assert await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.GONE)
    assert cloud.alive() == []


async def test_a_machine_that_lives_though_its_order_found_something_missing_is_kept(
    cloud, provider, key, monkeypatch
):
    instance = await launched(provider, key)
    [order] = [one for one in cloud.operations.all if one.kind == "insert"]
    order.error = {"code": "RESOURCE_NOT_FOUND", "message": "The resource was not found"}
    cloud.list_lag = 60.0

    again = await launched(provider, key)

    assert (again.id, again.failure) == (instance.id, None)
    assert (await provider.describe(instance.id)).failure is None
    assert cloud.alive() == [instance.id]


async def test_the_projects_quota_is_believed_when_two_zones_have_said_it(cloud, provider, key):
    cloud.late = [quota_exceeded("GPUS_ALL_REGIONS", 1.0, "") for _ in range(2)]

    scopes = []
    for attempt in (1, 2):
        with pytest.raises(QuotaError) as caught:
            await launched(provider, key, attempt)
        scopes.append(caught.value.scope)

    assert scopes == [Scope.ZONE, Scope.ACCOUNT]


@pytest.mark.parametrize(
    ("path", "headers"), [(INSERT, {}), ("/aggregated/instances$", {"Retry-After": "0"})]
)
async def test_calls_that_come_too_often_are_repeated_whichever_way_it_is_said(
    cloud, provider, key, path, headers
):
    cloud.faults.add(Fault(kind="status", status=429, path=path, headers=headers, body={}))
    body = {"error": {"code": 403, "errors": [{"reason": "rateLimitExceeded"}], "message": "Slow."}}
    cloud.faults.add(Fault(kind="status", status=403, path=path, body=body))

    instance = await launched(provider, key)

    assert cloud.alive() == [instance.id]


async def test_two_launches_at_once_make_one_firewall_rule_for_our_machines_alone(
    cloud, provider, key, monkeypatch
):
    monkeypatch.setenv("GCP_SSH_CIDR", "203.0.113.7/32")
    hired = await asyncio.gather(launched(provider, key), launched(provider, key, 2))

    [rule] = cloud.firewalls.values()
    assert rule["sourceRanges"] == ["203.0.113.7/32"]
    assert rule["allowed"] == [{"IPProtocol": "tcp", "ports": [str(cloud.ssh_port)]}]
    assert all(asked(cloud, one)["tags"]["items"] == rule["targetTags"] for one in hired)


async def test_a_firewall_rule_that_another_process_made_is_used(cloud, provider, key, monkeypatch):
    monkeypatch.setenv("GCP_SSH_CIDR", "203.0.113.7/32")
    await launched(provider, key)
    [name] = cloud.firewalls
    provider._api().forget(f"firewall {name}")  # as in another process

    assert asked(cloud, await launched(provider, key, 2))["tags"]["items"] == [name]


async def test_without_a_range_no_rule_is_made(cloud, provider, key):
    instance = await launched(provider, key)

    assert cloud.firewalls == {}
    assert "tags" not in asked(cloud, instance)


@pytest.mark.parametrize(
    ("breaks", "kind", "words"),
    [
        (lambda no: no.families.clear(), ConfigError, "GCP_IMAGE"),
        (lambda no: no.networks.clear(), ConfigError, "GCP_NETWORK"),
        (lambda no: setattr(no, "policy", "constraints/compute.vmExternalIpAccess"), ConfigError, "constraints/compute.vmExternalIpAccess"),
        (lambda no: no.absent.add(("g2-standard-4", "us-central1-a")), CapacityError, "does not exist in zone"),
        (lambda no: no.denied.add("disks.create"), CredentialsError, "Grant compute.disks.create"),
        (lambda no: setattr(no, "disabled", True), CredentialsError, "enable compute.googleapis.com"),
        (lambda no: setattr(no, "no_billing", True), CredentialsError, "billing account"),
    ],
    ids=["image", "network", "policy", "type", "role", "API", "billing"],
)  # fmt: skip
async def test_what_is_refused_at_once_names_the_remedy(cloud, provider, key, breaks, kind, words):
    offer = (await offered(provider))[0]
    breaks(cloud.refusals)

    with pytest.raises(kind) as caught:
        await provider.launch(offer, mark(), key)

    assert words in str(caught.value)
    assert cloud.alive() == []


async def test_a_subnetwork_and_a_service_account_are_ordered_where_they_are_set(
    cloud, provider, key, monkeypatch
):
    monkeypatch.setenv("GCP_SUBNETWORK", "mine")
    monkeypatch.setenv("GCP_SERVICE_ACCOUNT", "self@p.iam.gserviceaccount.com")
    inside = GoogleCloud(public_ip=False)

    body = asked(cloud, await launched(inside, key))

    assert body["networkInterfaces"] == [{"subnetwork": "regions/us-central1/subnetworks/mine"}]
    assert body["serviceAccounts"][0]["email"] == "self@p.iam.gserviceaccount.com"
    assert (provider.shutdown_ends_bill, GoogleCloud().shutdown_ends_bill) == (True, True)
    monkeypatch.delenv("GCP_SERVICE_ACCOUNT")
    assert not provider.shutdown_ends_bill


async def test_a_missing_package_is_named_with_how_to_get_it(provider, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.auth.transport.requests", None)

    with pytest.raises(DependencyError, match=r"pip install 'training-orchestrator\[gcp\]'"):
        await provider.check()


async def test_no_machine_is_hired_without_a_key(provider):
    offer = (await offered(provider))[0]

    with pytest.raises(ConfigError):
        await provider.launch(offer, mark(), None)
