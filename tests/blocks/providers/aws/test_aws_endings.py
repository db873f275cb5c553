"""How machines of AWS end, by whomever, and what that leaves."""

import asyncio
import time

import pytest

from blocks.models import InstanceStatus
from blocks.providers.aws.network import tags
from tests.blocks.providers.aws.aws_account import launched, refusing
from tests.blocks.providers.aws.test_aws_rights import forgotten_request
from tests.blocks.providers.rented_account import mark, until
from tests.waiting import PATIENCE
from trainer.contract.errors import CapacityError, ProviderError, QuotaError


@pytest.fixture(autouse=True)
def _one_region(cloud, monkeypatch):
    monkeypatch.setenv("AWS_REGIONS", "us-east-1")


async def test_the_notice_is_heard_on_the_machine(provider, cloud, key, monkeypatch):
    instance = await launched(provider, key, spot=True)
    environment = cloud.environment(cloud.account[instance.id])
    line = provider.notice_command.replace("sleep 5", "sleep 0.05")
    listening = await asyncio.create_subprocess_exec(
        "sh", "-c", line, env={"PATH": "/usr/bin:/bin", **environment}
    )
    await until(provider, instance.id, InstanceStatus.RUNNING)
    assert listening.returncode is None

    cloud.announce(instance.id)

    assert await asyncio.wait_for(listening.wait(), PATIENCE) == 0


async def test_what_is_taken_back_is_lost_and_then_gone(provider, cloud, key):
    instance = await launched(provider, key, spot=True)
    await until(provider, instance.id, InstanceStatus.RUNNING)

    cloud.preempt(instance.id)

    seen = await provider.describe(instance.id)
    assert (seen.status, seen.spot) == (InstanceStatus.LOST, True)
    assert "Server.SpotInstanceTermination" in seen.detail
    cloud.account[instance.id].facts["gone_at"] = 0.0
    assert (await provider.describe(instance.id)).status is InstanceStatus.GONE
    assert cloud.left_over() == []


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("Server.InsufficientInstanceCapacity", CapacityError),
        ("Client.VolumeLimitExceeded", QuotaError),
        ("Client.InternalError", ProviderError),  # the key of the disk's encryption, mostly
    ],
)
async def test_an_order_that_fails_after_it_was_taken_says_why(provider, cloud, key, reason, kind):
    cloud.never_boot = True
    instance = await launched(provider, key)

    await cloud.to_end(cloud.account[instance.id], "terminated", reason)

    seen = await provider.describe(instance.id)
    assert (type(seen.failure), seen.status) == (kind, InstanceStatus.GONE)


@pytest.mark.thorough
async def test_an_end_is_gone_at_once_twice_and_after_it_is_forgotten(provider, cloud, key):
    instance = await launched(provider, key)

    assert await provider.terminate(instance.id)
    assert (await provider.describe(instance.id)).status is InstanceStatus.GONE
    assert await provider.terminate(instance.id)  # as often as one likes
    assert await provider.instances() == []

    cloud.account[instance.id].facts["ended_at"] = time.time() - 3700  # an hour later
    assert (await provider.describe(instance.id)).status is InstanceStatus.ABSENT
    assert not await provider.terminate(instance.id)


@pytest.mark.thorough
async def test_a_machine_that_is_protected_is_said(provider, cloud, key):
    instance = await launched(provider, key)
    cloud.terminate_refuses = 1

    with pytest.raises(ProviderError, match="OperationNotPermitted"):
        await provider.terminate(instance.id)


@pytest.mark.thorough
async def test_a_sweep_takes_what_is_ours_and_old_and_nothing_else(provider, cloud, key):
    instance = await launched(provider, key, spot=True)
    own, others = tags("lost"), [{"Key": "installation", "Value": "deadbeef"}]
    old = cloud.forgotten_disk("us-east-1", own, age=3600)
    young = cloud.forgotten_disk("us-east-1", own, age=1)
    foreign = cloud.forgotten_disk("us-east-1", others, age=3600)
    cloud.spot_requests["sir-1"] = forgotten_request(own)
    cloud.spot_requests["sir-2"] = forgotten_request(others)

    await provider.sweep()

    assert old not in cloud.volumes
    assert {young, foreign} <= cloud.volumes.keys()
    states = {id: request["State"] for id, request in cloud.spot_requests.items()}
    assert states["sir-1"] == "cancelled"
    assert states["sir-2"] == "open"
    assert cloud.alive() == [instance.id]
    assert (await provider.find(mark())).id == instance.id


@pytest.mark.thorough
async def test_a_sweep_that_cannot_be_made_waits_for_the_next(provider, cloud, key):
    cloud.forgotten_disk("us-east-1", tags("lost"), age=3600)
    cloud.denied.add("ec2:DescribeVolumes")

    await provider.sweep()

    assert len(cloud.volumes) == 1


@pytest.mark.thorough
async def test_a_disk_that_is_refused_keeps_no_other_from_its_end(provider, cloud, key):
    stuck = cloud.forgotten_disk("us-east-1", tags("lost"), age=3600)
    old = cloud.forgotten_disk("us-east-1", tags("lost"), age=3600)
    cloud.spot_requests["sir-1"] = forgotten_request(tags("lost"))
    cloud.faults.add(refusing("VolumeInUse", action="/DeleteVolume$"))

    await provider.sweep()

    assert len({stuck, old} & cloud.volumes.keys()) == 1
    assert cloud.spot_requests["sir-1"]["State"] == "cancelled"
