"""Ordering a machine of Azure: what is sent, what is refused, and what comes of it."""

import asyncio
import base64

import pytest

from blocks.marks import installation_id
from blocks.models import InstanceStatus
from blocks.providers import lost_answer
from blocks.providers.api import Unanswered
from blocks.providers.azure import Azure
from tests.blocks.providers.azure.azure_account import ORDER, launched, offers, running
from tests.blocks.providers.rented_account import mark, until
from tests.clouds.azure_parts import ADDRESSES, CARDS, DISKS
from tests.clouds.cloud import Fault
from tests.waiting import until as eventually
from trainer.contract.errors import (
    BootError,
    CapacityError,
    ConfigError,
    ConnectionLost,
    FundsError,
    ProviderError,
    RateLimited,
    Scope,
)


async def test_an_order_makes_everything_so_that_it_goes_with_the_machine(cloud, provider, key):
    await launched(provider, key)

    [rented] = cloud.all
    asked = rented.facts["asked"]
    parts = {part.kind: part for part in cloud.parts}
    assert {*parts} == {DISKS, CARDS, ADDRESSES}
    assert all(part.goes_along for part in parts.values())
    tags = {"to-name": str(mark()), "installation": installation_id()}
    for bears in (asked, vars(parts[CARDS]), vars(parts[ADDRESSES])):
        assert tags.items() <= bears["tags"].items()
    assert parts[DISKS].name == f"{mark()}-disk"  # a disk takes no tags with the order
    facts = asked["properties"]
    assert facts["securityProfile"] == {"securityType": "Standard"}
    assert not {"priority", "evictionPolicy", "billingProfile", "flexProfile"} & {*facts}
    assert "zones" not in asked


async def test_a_spot_machine_is_deleted_when_it_is_taken_back(cloud, provider, key):
    instance = await launched(provider, key, spot=True)

    facts = cloud.account[instance.id].facts["asked"]["properties"]
    assert facts["billingProfile"] == {"maxPrice": -1}
    assert (facts["priority"], facts["evictionPolicy"]) == ("Spot", "Delete")
    assert instance.spot
    assert (await provider.describe(instance.id)).spot


async def test_the_machine_is_given_its_key_and_its_first_words_at_once(cloud, provider, key):
    offer = (await offers(provider))[0]
    await provider.launch(offer, mark(), key, "sleep 7 && echo 'ends'")

    [rented] = cloud.all
    system = rented.facts["asked"]["properties"]["osProfile"]
    script = base64.b64decode(system["customData"]).decode()
    assert script.startswith("#!/bin/sh\n")
    assert " ".join(key.split()) in script
    assert "sleep 7 && echo" in script
    assert rented.public_keys == [key]
    process = await asyncio.create_subprocess_exec("sh", "-n", stdin=asyncio.subprocess.PIPE)
    await process.communicate(script.encode())
    assert process.returncode == 0


async def test_network_and_firewall_are_made_once_in_a_location(cloud, provider, key):
    for attempt in (1, 2):
        await launched(provider, key, attempt)

    made = [one.path.split("/")[-2] for one in cloud.requests if one.method == "PUT"]
    assert made.count("networkSecurityGroups") == 2  # the first one found no group
    assert made.count("virtualNetworks") == 1
    [rule] = [
        rule
        for one in cloud.networks.values()
        for rule in one["properties"].get("securityRules", [])
    ]
    assert rule["properties"]["sourceAddressPrefixes"] == ["127.0.0.0/8"]
    assert rule["properties"]["destinationPortRange"] == str(cloud.ssh_port)


async def test_a_firewall_follows_the_setting(cloud, provider, key):
    await launched(provider, key)

    await launched(Azure(ssh_from=["192.0.2.0/24"]), key, 2)

    guards = [one for path, one in cloud.networks.items() if "networksecuritygroups" in path]
    assert "192.0.2.0/24" in str(guards)
    assert "127.0.0.0/8" not in str(guards)


async def test_an_order_of_a_name_that_is_there_changes_nothing(cloud, provider, key, monkeypatch):
    first = await launched(provider, key)

    async def sees_nothing(*_):
        return None

    monkeypatch.setattr(Azure, "find", sees_nothing)
    again = await launched(provider, key, gpu_types=["A100"])

    assert (again.id, again.instance_type) == (first.id, first.instance_type)
    assert cloud.changed == []
    assert [one.status for one in cloud.requests if one.method == "PUT"].count(412) == 1


async def test_a_machine_that_is_there_and_cannot_be_seen_is_not_given_up(
    cloud, provider, key, monkeypatch
):
    first = await launched(provider, key)
    find, unseen = Azure.find, [None]

    async def sees_nothing_at_first(self, own):
        return unseen.pop() if unseen else await find(self, own)

    async def away(*_):
        raise ConnectionLost("Azure is away.")

    monkeypatch.setattr(Azure, "find", sees_nothing_at_first)
    monkeypatch.setattr(Azure, "describe", away)

    assert (await launched(provider, key)).id == first.id


async def test_a_name_that_is_anothers_leads_to_the_next_offer(cloud, provider, key, monkeypatch):
    instance = await launched(provider, key)
    await provider.remark(instance.id, mark(7))

    with pytest.raises(CapacityError, match="taken by another machine"):
        await launched(provider, key)

    assert cloud.alive() == [instance.id]
    assert (await provider.describe(instance.id)).mark == mark(7)


def test_a_second_order_without_the_condition_would_change_the_machine(cloud):
    """The local Azure is as dangerous as the real one: else the test before proved nothing."""
    import httpx

    token, _ = cloud.entra.give()
    head = {"Authorization": f"Bearer {token}"}
    path = f"{cloud.url}/subscriptions/{cloud.subscription}/resourceGroups/training"
    query = {"api-version": "2026-04-01"}
    provider = Azure()
    offer = asyncio.run(offers(provider))[0]
    asyncio.run(provider.launch(offer, mark(), "ssh-ed25519 AAAA x"))
    asked = cloud.all[0].facts["asked"]

    answer = httpx.put(
        f"{path}/providers/Microsoft.Compute/virtualMachines/{mark()}",
        params=query,
        headers=head,
        json=asked,
    )

    assert (answer.status_code, cloud.changed) == (200, [str(mark())])


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AllocationFailed", CapacityError),
        ("ZonalAllocationFailed", CapacityError),
        ("OSProvisioningTimedOut", BootError),
        ("SomethingNew", BootError),
    ],
)
async def test_an_order_that_fails_late_says_why_and_leaves_nothing(
    cloud, provider, key, code, kind
):
    cloud.fails_late = [code]
    instance = await launched(provider, key)

    failed = await until(provider, instance.id, InstanceStatus.LOST)

    assert type(failed.failure) is kind
    assert code in failed.failure.message
    assert failed.failure.scope is Scope.OFFER
    assert cloud.alive() == [instance.id]  # it exists, and holds its disk and its card
    assert await provider.terminate(instance.id)
    await until(provider, instance.id, InstanceStatus.ABSENT)
    assert (cloud.alive(), cloud.left_over()) == ([], [])


async def test_a_refusal_that_made_a_machine_all_the_same_is_undone(cloud, provider, key):
    body = {"error": {"code": "AllocationFailed", "message": "Allocation failed."}}
    cloud.faults.add(
        Fault(kind="commit_then_status", method="PUT", path=ORDER, status=409, body=body)
    )

    with pytest.raises(CapacityError, match="AllocationFailed"):
        await launched(provider, key)

    assert cloud.alive() == []


async def test_what_a_refusal_made_and_cannot_be_undone_is_adopted(cloud, provider, key):
    body = {"error": {"code": "AllocationFailed", "message": "Allocation failed."}}
    cloud.faults.add(
        Fault(kind="commit_then_status", method="PUT", path=ORDER, status=409, body=body)
    )
    cloud.terminate_refuses = 1

    instance = await launched(provider, key)

    assert cloud.alive() == [instance.id]  # and is given back when it does not become ready


async def test_a_group_that_is_being_deleted_is_waited_for(cloud, provider, key):
    cloud.groups["training"] = "Deleting"
    with pytest.raises(RateLimited, match="ResourceGroupBeingDeleted"):
        await launched(provider, key)

    del cloud.groups["training"]
    await launched(provider, key)
    assert len(cloud.alive()) == 1


async def test_a_policy_stops_the_job_and_is_quoted(cloud, provider, key):
    cloud.policy = "Only in swedencentral."

    with pytest.raises(ConfigError, match="Only in swedencentral"):
        await launched(provider, key)


async def test_a_subscription_without_funds_is_said_so(cloud, provider, key):
    cloud.no_funds = True

    with pytest.raises(FundsError, match="ReadOnlyDisabledSubscription"):
        await launched(provider, key)


async def test_an_order_is_sent_again_only_after_an_answer_that_did_nothing(cloud, provider, key):
    slow = {"Retry-After": "0"}
    body = {"error": {"code": "TooManyRequests", "message": "Slow down."}}
    cloud.faults.add(
        Fault(kind="status", method="PUT", path=ORDER, status=429, body=body, headers=slow)
    )

    instance = await launched(provider, key)

    assert cloud.alive() == [instance.id]


async def test_a_lost_answer_with_lag_is_found_by_its_name(cloud, provider, key, monkeypatch):
    cloud.list_lag = cloud.look_lag = 0.3
    cloud.faults.add(Fault(kind="commit_then_drop", method="PUT", path=ORDER))

    instance = await launched(provider, key)

    assert cloud.alive() == [instance.id]


async def test_an_answer_that_never_comes_may_have_made_a_machine(
    cloud, provider, key, monkeypatch
):
    async def away(*_):
        raise ConnectionLost("away")

    monkeypatch.setattr(lost_answer, "found_or_absent", away)
    cloud.faults.add(Fault(kind="commit_then_drop", method="PUT", path=ORDER))

    with pytest.raises(Unanswered):
        await launched(provider, key)


async def test_a_machine_runs_once_it_has_an_address(cloud, provider, key):
    cloud.no_address = True
    instance = await launched(provider, key)
    await eventually(lambda: cloud.account[instance.id].status == "running")

    waiting = await provider.describe(instance.id)
    assert (waiting.status, waiting.address) == (InstanceStatus.PROVISIONING, "")
    assert waiting.detail == "without an address yet"
    cloud.no_address = False

    ready = await until(provider, instance.id, InstanceStatus.RUNNING)
    assert ready.address == ready.private_address == cloud.account[instance.id].address
    assert (ready.gpu_type, ready.gpu_count, ready.price_per_hour) == ("Tesla T4", 1, 0.526)


async def test_a_machine_stays_within_reach_when_the_group_in_the_settings_changes(
    cloud, provider, key, monkeypatch
):
    instance = await running(provider, key)
    monkeypatch.setenv("AZURE_RESOURCE_GROUP", "another")
    cloud.groups["another"] = "Succeeded"

    moved = Azure()
    assert [one.id for one in await moved.instances()] == [instance.id]
    assert (await moved.describe(instance.id)).status is InstanceStatus.RUNNING
    assert await moved.remark(instance.id, mark(2))
    assert await moved.terminate(instance.id)
    assert cloud.alive() == []


async def test_no_machine_is_hired_without_a_key(provider):
    with pytest.raises(ConfigError, match="without an SSH key"):
        await launched(provider, None)


async def test_a_zone_is_named_only_when_asked_for(cloud, provider, key):
    provider.zones = ["2"]

    instance = await launched(provider, key)

    assert cloud.account[instance.id].facts["asked"]["zones"] == ["2"]
    assert (await provider.describe(instance.id)).zone == "2"


async def test_a_location_that_cannot_be_asked_hides_no_other(cloud, provider):
    provider.locations = ["westeurope", "atlantis"]

    assert {one.region for one in await offers(provider)} == {"westeurope"}
    provider.locations = ["atlantis"]
    with pytest.raises((ConfigError, ProviderError)):
        await offers(provider)


async def test_a_machine_that_hangs_in_creating_is_given_up_at_our_own_deadline(
    cloud, provider, key
):
    cloud.never_boot = True
    instance = await launched(provider, key)
    assert (await provider.describe(instance.id)).status is InstanceStatus.PROVISIONING

    cloud.account[instance.id].created -= 3000

    hung = await provider.describe(instance.id)
    assert (hung.status, type(hung.failure)) == (InstanceStatus.LOST, BootError)
    assert await provider.terminate(instance.id)
    assert cloud.alive() == []
