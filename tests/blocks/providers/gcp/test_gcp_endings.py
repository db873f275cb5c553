"""Google Cloud: notices, ends from within, ends by themselves, lists with gaps, and what is left."""

import asyncio
import os

import httpx
import pytest

from blocks.first_script import first_script
from blocks.models import Instance, InstanceStatus
from blocks.providers.gcp import GoogleCloud
from blocks.providers.gcp.operations import Story
from flows.renting.giving_back import Ending, until_gone
from tests.blocks.providers.gcp.gcp_account import launched, offered
from tests.blocks.providers.rented_account import mark, true, until
from tests.clouds.cloud import Fault
from tests.clouds.shutdown import install_shutdown
from trainer.contract.errors import ConnectionLost, ProviderError


async def on(cloud, instance, command):
    """Start a line of sh as on a machine."""
    rented = cloud.account[instance.id]
    folder = cloud.folder / rented.id
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    install_shutdown(folder)
    environment = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", **cloud.environment(rented)}
    return await asyncio.create_subprocess_exec("sh", "-c", command, env=environment)


async def running(cloud, provider, key, *args, **options):
    instance = await launched(provider, key, *args, **options)
    return await until(provider, instance.id, InstanceStatus.RUNNING)


async def test_a_machine_has_its_address_when_it_runs(cloud, provider, key):
    instance = await launched(provider, key)
    early = await provider.describe(instance.id)
    now = await until(provider, instance.id, InstanceStatus.RUNNING)

    assert (early.status, now.status) == (InstanceStatus.PROVISIONING, InstanceStatus.RUNNING)
    assert now.address.startswith("127.")
    assert (now.port, now.beside_per_hour) == (cloud.ssh_port, 0.005)


async def test_os_login_in_the_project_does_not_swallow_the_key(cloud, provider, key):
    cloud.os_login = True
    instance = await launched(provider, key)
    items = [{"key": "ssh-keys", "value": f"trainer:{key}"}]

    assert cloud.account[instance.id].public_keys == [key]
    assert cloud._keys({"metadata": {"items": items}}) == []  # as it is without our line


async def test_the_notice_is_heard_by_a_read_that_hangs_and_survives_503(cloud, provider, key):
    instance = await running(cloud, provider, key, spot=True)
    cloud.identity.unavailable = 1
    hears = await on(cloud, instance, provider.notice_command)
    await true(lambda: cloud.identity.waiting)
    assert hears.returncode is None

    cloud.notice(instance.id)

    assert await asyncio.wait_for(hears.wait(), 20) == 0
    late = await on(cloud, instance, provider.notice_command)  # after the change
    assert await asyncio.wait_for(late.wait(), 20) == 0


async def test_a_machine_deletes_itself_and_no_other_by_its_service_account(
    cloud, provider, key, monkeypatch
):
    monkeypatch.setenv("GCP_SERVICE_ACCOUNT", "self@p.iam.gserviceaccount.com")
    instance = await running(cloud, provider, key, script="true")
    other = await launched(provider, key, 2)
    headers = {"Authorization": f"Bearer ya29.{cloud.account[instance.id].key}"}
    path = f"{cloud.url}/projects/local-project/zones/{other.id.replace('/', '/instances/')}"
    async with httpx.AsyncClient() as client:
        assert (await client.delete(path, headers=headers)).status_code == 401

    ends = await on(cloud, instance, provider.shutdown_command)

    assert await asyncio.wait_for(ends.wait(), 20) == 0
    await until(provider, instance.id, InstanceStatus.GONE)
    assert cloud.alive() == [other.id]


async def test_one_that_nobody_reaches_powers_off_and_its_disk_is_billed_until_it_is_ended(
    cloud, provider, key
):
    script = first_script(1.0, provider.shutdown_command)
    instance = await launched(provider, key, script=script, seconds=3600.0)

    lost = await until(provider, instance.id, InstanceStatus.LOST)

    assert "it shut itself down" in lost.detail
    assert cloud.account[instance.id].ended is not None
    assert cloud.alive() == [instance.id]
    assert (await until_gone(provider, mark(), instance.id))[0] is Ending.GONE
    assert cloud.alive() == []


async def test_google_ends_a_machine_that_has_run_as_long_as_it_may(cloud, provider, key):
    cloud.run_factor = 0.001
    instance = await launched(provider, key, seconds=60.0)

    await until(provider, instance.id, InstanceStatus.ABSENT)

    assert cloud.alive() == []


async def test_a_machine_that_was_stopped_is_not_ended_by_the_time_it_may_run(cloud, provider, key):
    cloud.run_factor = 0.001
    instance = await launched(provider, key, seconds=600.0)
    cloud.preempt(instance.id)

    await true(lambda: not cloud._boots)  # nothing more happens by itself

    assert (await provider.describe(instance.id)).status is InstanceStatus.LOST
    assert cloud.alive() == [instance.id]


async def test_the_time_that_it_may_run_is_set_by_the_order_alone(cloud, provider, key):
    instance = await running(cloud, provider, key, seconds=60.0)
    await provider.remark(instance.id, mark(2))
    path = f"{cloud.url}/projects/local-project/zones/{instance.id.replace('/', '/instances/')}"
    headers = {"Authorization": f"Bearer ya29.{cloud.key}"}
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{path}/setScheduling", json={}, headers=headers)

    assert answer.status_code == 400  # a machine that runs keeps it
    called = [path for _, path in cloud.calls() if path.endswith("/setScheduling")]
    assert len(called) == 1


async def test_a_spot_machine_that_was_taken_back_is_gone_with_its_disk_and_why(
    cloud, provider, key
):
    instance = await running(cloud, provider, key, spot=True)
    cloud.preempt(instance.id)

    gone = await provider.describe(instance.id)

    assert (gone.status, gone.detail) == (InstanceStatus.GONE, "it was taken back")
    assert cloud.alive() == []
    assert await provider.terminate(instance.id) is False  # and not an error for ever
    assert (await until_gone(provider, mark(), instance.id))[0] is Ending.GONE


async def test_one_that_is_stopped_instead_would_be_billed_for_its_disk(cloud, provider, key):
    instance = await running(cloud, provider, key, spot=True)
    cloud.account[instance.id].facts["asked"]["scheduling"]["instanceTerminationAction"] = "STOP"
    cloud.preempt(instance.id)

    lost = await provider.describe(instance.id)

    assert (lost.status, cloud.alive()) == (InstanceStatus.LOST, [instance.id])
    assert "it was taken back" in lost.detail


async def test_a_machine_whose_host_fails_is_lost(cloud, provider, key):
    instance = await running(cloud, provider, key)
    cloud.preempt(instance.id)

    assert "its host failed" in (await provider.describe(instance.id)).detail


def test_while_a_machine_is_seen_its_status_is_believed_and_not_its_operations():
    rows = [{"operationType": name, "status": "DONE"} for name in ("insert", "delete")]
    seen = Instance(
        provider="gcp", id="z/a", mark=None, status=InstanceStatus.STOPPING, price_per_hour=None
    )

    assert Story.of(rows).told_of("z/a", seen).status is InstanceStatus.STOPPING
    taken = [{"operationType": "compute.instances.preempted", "status": "RUNNING"}]
    assert Story.of(taken).told_of("z/a", seen).status is InstanceStatus.LOST
    assert Story.of(rows).told_of("z/a", None).status is InstanceStatus.GONE
    assert Story.of(rows[:1]).told_of("z/a", None) is None
    assert Story.of([]).told_of("z/a", None) is None


async def test_a_machine_that_somebody_deletes_is_gone_with_who_it_was(cloud, provider, key):
    instance = await launched(provider, key)
    await provider.terminate(instance.id)

    gone = await until(provider, instance.id, InstanceStatus.GONE)

    assert gone.detail == "it was deleted by trainer@local-project.iam.gserviceaccount.com"
    assert cloud.alive() == []


async def test_a_zone_that_does_not_answer_is_not_empty(cloud, provider, key):
    instance = await launched(provider, key)
    cloud.unreachable = {instance.zone}

    for call in (provider.instances(), provider.find(mark()), provider.find(mark(2))):
        with pytest.raises(ConnectionLost, match=instance.zone):
            await call
    assert (await provider.describe(instance.id)).mark == mark()
    cloud.unreachable = {"us-east1-b"}
    assert (await provider.find(mark())).id == instance.id


async def test_all_pages_are_read_with_machines_of_others_left_out(cloud, provider, key):
    cloud.page = 1
    ids = {(await launched(provider, key, attempt)).id for attempt in (1, 2, 3)}

    assert {one.id for one in await provider.instances()} == ids


async def test_labels_that_somebody_changes_meanwhile_are_read_again(cloud, provider, key):
    instance = await launched(provider, key)
    body = {"error": {"code": 412, "errors": [{"reason": "conditionNotMet"}], "message": "Old."}}
    cloud.faults.add(Fault(kind="status", status=412, path="/setLabels$", times=1, body=body))

    assert await provider.remark(instance.id, mark(2))
    assert (await provider.describe(instance.id)).mark == mark(2)
    cloud.faults.add(Fault(kind="status", status=412, path="/setLabels$", times=3, body=body))
    with pytest.raises(ProviderError, match="change all the time"):
        await provider.remark(instance.id, mark(3))
    stale = {"labels": {}, "labelFingerprint": "b2xk"}
    headers = {"Authorization": f"Bearer ya29.{cloud.key}"}
    path = f"{cloud.url}/projects/local-project/zones/{instance.id.replace('/', '/instances/')}"
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{path}/setLabels", json=stale, headers=headers)
    assert (answer.status_code, cloud.account[instance.id].name) == (412, str(mark(2)))


@pytest.mark.parametrize("body", [{"labels": "x"}, {"labels": [5]}, []], ids=str)
async def test_labels_that_are_none_are_an_error_of_ours(cloud, provider, key, body):
    instance = await launched(provider, key)
    path = f"/{instance.id.partition('/')[2]}$"
    cloud.faults.add(Fault(kind="status", status=200, method="GET", path=path, body=body))

    with pytest.raises(ProviderError):
        await provider.remark(instance.id, mark(2))


async def test_disks_of_ours_that_no_machine_has_are_swept(cloud, provider, key):
    instance = await launched(provider, key)
    cloud.account[instance.id].facts["asked"]["disks"][0]["autoDelete"] = False
    await provider.terminate(instance.id)
    await true(lambda: cloud.disks)
    cloud.leave_disk("us-central1-a/web", "web-1", age=3600.0)
    cloud.leave_disk("us-central1-a/theirs", f"to-deadbeef-{'0' * 32}-1", age=3600.0)
    cloud.leave_disk("us-central1-a/old", str(mark(2)), age=3600.0)

    await provider.sweep()

    assert [*cloud.disks] == [instance.id, "us-central1-a/web", "us-central1-a/theirs"]


async def test_a_disk_that_is_refused_keeps_no_other(cloud, provider):
    for name in ("stuck", "old"):
        cloud.leave_disk(f"us-central1-a/{name}", str(mark(2)), age=3600.0)
    cloud.faults.add(Fault(kind="status", path="/disks/stuck$", status=400, body="{}", times=1))

    await provider.sweep()

    assert [*cloud.disks] == ["us-central1-a/stuck"]


async def test_offers_of_spot_machines_do_not_fall_with_those_at_full_price(cloud, provider):
    offers = await offered(GoogleCloud(), spot=None)

    assert {offer.id.endswith(" spot") == offer.spot for offer in offers} == {True}
