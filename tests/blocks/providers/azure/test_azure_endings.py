"""How machines of Azure end: by us, by Azure, by themselves, and what must not be left of them."""

import asyncio
import time

import pytest

from blocks.first_script import first_script
from blocks.models import InstanceStatus
from blocks.providers import azure
from blocks.providers.azure import Azure
from flows.renting.giving_back import Ending, until_gone
from tests.blocks.providers.azure.azure_account import launched, running
from tests.blocks.providers.rented_account import mark, until
from tests.clouds.azure_parts import ADDRESSES, CARDS, DISKS
from tests.waiting import until as eventually

ALL = {DISKS, CARDS, ADDRESSES}
IDENTITY = (
    "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/"
    "userAssignedIdentities/end"
)


def schedule(cloud):
    """Return the time of day of the only schedule."""
    [found] = cloud.schedules.values()
    return found.body["properties"]["dailyRecurrence"]["time"]


def clock(seconds):
    """Return the time of day in some seconds, as a schedule has it."""
    return time.strftime("%H%M", time.gmtime(time.time() + seconds))


async def test_it_is_armed_with_the_order_and_moved_by_each_renewal(cloud, provider, key):
    instance = await launched(provider, key)
    [found] = cloud.schedules.values()
    armed = found.due - time.time()
    assert 3600 <= armed <= 3600 + 660 + 60

    await provider.renew(instance.id, 1800)
    [found] = cloud.schedules.values()
    moved = found.due - time.time()
    assert 1800 <= moved <= 1800 + 360 + 60
    calls = len(cloud.requests)
    await provider.renew(instance.id, 1800)  # that is so already
    assert len(cloud.requests) == calls

    await provider.renew(instance.id, 7200)
    [found] = cloud.schedules.values()
    assert found.due - time.time() >= 7200


async def test_a_schedule_is_never_so_far_ahead_that_it_means_today(cloud, provider, key):
    instance = await launched(provider, key)

    await provider.renew(instance.id, 7 * 86_400)

    [found] = cloud.schedules.values()
    assert 23 * 3600 < found.due - time.time() < 24 * 3600


async def test_a_short_lease_is_not_put_off_until_tomorrow(cloud, provider, key):
    instance = await launched(provider, key)

    await provider.renew(instance.id, 3)

    [found] = cloud.schedules.values()
    assert 60 <= found.due - time.time() <= 300


async def test_nobody_who_renews_it_is_ended_by_azure_and_then_swept_by_us(cloud, provider, key):
    instance = await running(provider, key)

    cloud.clock_ahead = 2 * 3600
    lost = await until(provider, instance.id, InstanceStatus.LOST)

    assert lost.detail == "deallocated"
    assert cloud.account[instance.id].ended is not None
    assert cloud.alive() == [instance.id]  # disk and address are billed on
    ending, _ = await until_gone(provider, mark(), instance.id)
    assert ending is Ending.GONE
    assert (cloud.alive(), cloud.left_over()) == ([], [])


async def test_a_schedule_that_was_moved_does_not_end_the_machine_at_its_old_time(
    cloud, provider, key
):
    instance = await running(provider, key)
    await provider.renew(instance.id, 3 * 3600)

    looks, cloud.clock_ahead = cloud.schedule_looks, 2 * 3600
    await eventually(lambda: cloud.schedule_looks >= looks + 3)

    assert (await provider.describe(instance.id)).status is InstanceStatus.RUNNING


async def test_a_machine_that_is_gone_is_not_renewed(cloud, provider, key):
    instance = await running(provider, key)
    cloud.kill_machine(instance.id)
    Azure._region.pop(instance.id)

    await provider.renew(instance.id, 7200)

    assert len([one for one in cloud.requests if one.path.endswith("schedules")]) == 0


async def test_a_machine_shut_down_from_within_is_lost_and_billed_in_full(cloud, provider, key):
    instance = await running(provider, key)
    rented = cloud.account[instance.id]

    await cloud.power_off(rented)

    lost = await provider.describe(instance.id)
    assert (lost.status, lost.detail) == (InstanceStatus.LOST, "stopped")
    assert rented.ended is None
    assert not provider.shutdown_ends_bill


@pytest.mark.parametrize(
    "kind",
    [DISKS, *(pytest.param(kind, marks=pytest.mark.thorough) for kind in (ADDRESSES, CARDS))],
)
async def test_what_stays_of_a_machine_belongs_to_it_until_it_is_gone(
    cloud, provider, key, kind, monkeypatch
):
    monkeypatch.setattr("flows.renting.giving_back.AGAIN_SECONDS", 0.1)
    cloud.leaves = [kind]
    instance = await running(provider, key)
    assert await provider.terminate(instance.id)
    await eventually(lambda: cloud.known(instance.id) is None)

    left = await provider.describe(instance.id)
    assert left.status.is_billing
    assert "left of it" in left.detail
    assert (await provider.find(mark())).id == instance.id  # also by whoever lost its id
    cloud.leaves = ()
    ending, _ = await until_gone(provider, mark(), instance.id)

    assert ending is Ending.GONE
    assert (cloud.alive(), cloud.left_over()) == ([], [])


async def test_all_of_it_may_stay_and_goes_in_the_order_that_azure_wants(
    cloud, provider, key, monkeypatch
):
    monkeypatch.setattr("flows.renting.giving_back.AGAIN_SECONDS", 0.1)
    cloud.leaves = ALL
    instance = await running(provider, key)

    ending, _ = await until_gone(provider, mark(), instance.id)

    assert ending is Ending.GONE
    assert (cloud.alive(), cloud.left_over()) == ([], [])


async def test_what_is_left_of_a_machine_that_passed_to_another_mark_is_no_machine_of_that(
    cloud, provider, key, monkeypatch
):
    monkeypatch.setattr("flows.renting.giving_back.AGAIN_SECONDS", 0.1)
    cloud.leaves = [DISKS]
    instance = await running(provider, key)
    await provider.remark(instance.id, mark(2))

    ending, _ = await until_gone(provider, mark(2), instance.id)

    assert ending is Ending.GONE
    assert cloud.alive() == []


async def test_a_sweep_takes_what_nobody_owns_and_nothing_else(cloud, provider, key, monkeypatch):
    kept = await running(provider, key)
    lost = await running(provider, key, 2)
    cloud.leaves = ALL
    cloud.kill_machine(lost.id)
    young = cloud.left_over()
    others = [part for part in cloud.parts if part.machine == kept.id]

    await provider.sweep()
    assert set(young) - set(cloud.left_over()) == {f"shutdown-computevm-{mark(2)}"}

    monkeypatch.setattr(azure, "ORPHAN_SECONDS", -1.0)
    await provider.sweep()
    assert cloud.left_over() == []
    assert all(part.ended is None for part in others)
    assert len(cloud.schedules) == 1


async def test_a_sweep_touches_nothing_of_others(cloud, provider, key, monkeypatch):
    monkeypatch.setattr(azure, "ORPHAN_SECONDS", -1.0)
    instance = await running(provider, key)
    cloud.leaves = ALL
    cloud.kill_machine(instance.id)
    for part in cloud.parts:
        part.tags = {"to-machine": "web-1"}
        part.name = "web-1-disk" if part.kind == DISKS else part.name

    await provider.sweep()

    assert len([part for part in cloud.parts if part.ended is None]) == 3


async def test_an_evicted_spot_machine_is_absent_and_leaves_nothing(cloud, provider, key):
    instance = await running(provider, key, spot=True)

    cloud.evict(instance.id)

    assert (await provider.describe(instance.id)).status is InstanceStatus.ABSENT
    assert cloud.alive() == []
    ending, _ = await until_gone(provider, mark(), instance.id)
    assert ending is Ending.GONE
    assert cloud.left_over() == [f"shutdown-computevm-{mark()}"]  # which costs nothing
    await provider.sweep()
    assert cloud.left_over() == []


@pytest.mark.thorough
async def test_a_machine_that_hangs_in_deletion_is_asked_again_and_not_given_up(
    cloud, provider, key, monkeypatch
):
    monkeypatch.setattr("flows.renting.giving_back.AGAIN_SECONDS", 0.1)
    instance = await running(provider, key)
    cloud.terminate_refuses, cloud.terminate_ignored = 2, 2

    ending, _ = await until_gone(provider, mark(), instance.id)

    assert ending is Ending.GONE
    assert cloud.alive() == []


async def asked(line, cloud, id, seconds=20):
    """Run a line of sh as on a machine; return its exit code."""
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        line,
        env={"PATH": "/usr/bin:/bin", "AZURE_IMDS_URL": f"{cloud.url}/imds/{id}"},
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        return await asyncio.wait_for(process.wait(), seconds)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_machine_with_an_identity_deletes_itself_with_all_that_is_billed(
    cloud, provider, key, monkeypatch
):
    monkeypatch.setenv("AZURE_MACHINE_IDENTITY", IDENTITY)
    own, other = await running(provider, key), await running(provider, key, 2)
    assert provider.shutdown_ends_bill
    line = provider.shutdown_command
    assert "\n" not in line

    await asked(line.partition("|| {")[0], cloud, own.id)

    assert cloud.alive() == [other.id]
    await until(provider, own.id, InstanceStatus.ABSENT)


async def test_the_identity_of_a_machine_may_delete_that_machine_alone(
    cloud, provider, key, monkeypatch
):
    monkeypatch.setenv("AZURE_MACHINE_IDENTITY", IDENTITY)
    own, other = await running(provider, key), await running(provider, key, 2)
    rented = cloud.account[own.id]
    true, rented.facts["path"] = rented.facts["path"], cloud.account[other.id].facts["path"]
    line = provider.shutdown_command.partition("|| {")[0]

    # The service says an id that is not the machine's own: the role would allow it, Azure does not.
    cloud.identity_scope[own.id] = true
    assert await asked(line, cloud, own.id) != 0

    assert cloud.alive() == [own.id, other.id]


async def test_without_an_identity_it_shuts_down_and_no_token_is_asked_for(provider):
    assert provider.shutdown_command == "sudo -n shutdown -h now || shutdown -h now || kill 1"


async def test_a_first_script_of_a_machine_with_an_identity_is_valid_sh(provider, monkeypatch):
    monkeypatch.setenv("AZURE_MACHINE_IDENTITY", IDENTITY)
    script = first_script(5, provider.shutdown_command)

    process = await asyncio.create_subprocess_exec("sh", "-n", "-c", script)

    assert await process.wait() == 0


async def test_the_notice_is_heard_on_the_machine_it_is_for(cloud, provider, key):
    own, other = await running(provider, key, spot=True), await running(provider, key, 2, spot=True)
    deaf = asyncio.create_task(asked(provider.notice_command, cloud, other.id))
    heard = asyncio.create_task(asked(provider.notice_command, cloud, own.id))
    await eventually(lambda: len([r for r in cloud.requests if "scheduledevents" in r.path]) >= 2)

    cloud.announce(own.id)

    assert await heard == 0
    assert not deaf.done()
    deaf.cancel()
    await asyncio.gather(deaf, return_exceptions=True)


@pytest.mark.parametrize(
    ("policy", "status"),
    [("Delete", InstanceStatus.ABSENT), ("Deallocate", InstanceStatus.LOST)],
)
async def test_azures_own_drill_takes_a_spot_machine_back_by_its_policy(
    cloud, provider, key, policy, status
):
    instance = await running(provider, key, spot=True)
    rented = cloud.account[instance.id]
    rented.facts["asked"]["properties"]["evictionPolicy"] = policy
    cloud.rights.add("Microsoft.Compute/virtualMachines/simulateEviction/action")

    drill = f"{cloud.machine_path(rented)}/simulateEviction"
    answer = await provider._api().call("POST", drill, params={"api-version": "2026-04-01"})

    assert answer.status == 204
    await until(provider, instance.id, status)
    assert rented.ended is not None


async def test_a_machine_without_a_schedule_is_hired_and_that_is_said(cloud, provider, key, caplog):
    cloud.unregistered = {"Microsoft.DevTestLab"}

    instance = await launched(provider, key)

    assert cloud.alive() == [instance.id]
    assert "has no schedule that ends it" in caplog.text
    assert "az provider register --namespace Microsoft.DevTestLab" in caplog.text
