"""A job's machine through its mailbox in S3: a real process, ended in every way there is."""

from __future__ import annotations

import fcntl
import json

import pytest

from blocks.machines.mailbox.agent import libraries
from blocks.models import InstanceStatus
from blocks.workplaces.base import Lease, Wanted
from tests.blocks.providers.rented_account import mark
from tests.blocks.providers.sagemaker.sagemaker_account import in_status, launched
from tests.clouds.s3 import KEY, SECRET
from tests.waiting import until
from trainer.contract.errors import ConnectionLost

LEASE = Lease(term_seconds=600, grace_seconds=1)
ANY = Wanted(gpu_count=0, gpu_type=None, disk_gb=None)


@pytest.fixture
async def running(cloud, provider):
    """Return a job whose machine is ready, and the workplace there."""
    cloud.sshd_never = False
    instance = await launched(provider)
    instance = await in_status(provider, instance.id, InstanceStatus.RUNNING)
    async with provider.workplace(instance) as workplace:
        yield instance, workplace, await ready(workplace)


async def ready(workplace, lease=LEASE):
    async def now():
        try:
            return await workplace.ready(ANY, lease)
        except ConnectionLost:  # its agent has not come up yet
            return None

    found = await until(now)
    workplace.folder = f"{found.jobs}/one"
    return found


async def test_a_stop_by_others_leaves_time_to_save_and_to_fetch_what_was_saved(
    cloud, provider, running
):
    instance, workplace, found = running
    await workplace.write("status.json", {})
    folder = cloud.folder / instance.id
    assert found.jobs.startswith(str(folder / "tmp" / "training-orchestrator"))
    with open(f"{workplace.folder}/.lock", "w") as lock:  # noqa: ASYNC230, PTH123
        fcntl.flock(lock, fcntl.LOCK_EX)
        cloud.stopped_by_others(instance.id)
        taken = folder / "tmp/training-orchestrator/.training-orchestrator/taken-back"
        await until(taken.exists)
        assert (await provider.describe(instance.id)).status is InstanceStatus.STOPPING
        await workplace.write("status.json", {"step": 3})
        assert (await workplace.status()).step == 3
        cloud.stop_seconds = 0.0  # what is still there when its time is up is killed
    await in_status(provider, instance.id, InstanceStatus.GONE)
    assert cloud.machines == {}


async def test_a_stop_of_ours_waits_for_nobody(cloud, provider, running):
    instance, workplace, _ = running
    await workplace.write("status.json", {})
    process = cloud.machines[instance.id].process
    with open(f"{workplace.folder}/.lock", "w") as lock:  # noqa: ASYNC230, PTH123
        fcntl.flock(lock, fcntl.LOCK_EX)  # as if a training went on

        assert await provider.terminate(instance.id)

        await in_status(provider, instance.id, InstanceStatus.GONE)
    assert process.returncode == 0  # by itself, and not killed
    assert cloud.s3.keys() == []


@pytest.mark.thorough
async def test_a_lease_that_nobody_renews_completes_the_job(cloud, provider, running):
    instance, workplace, _ = running

    await workplace.ready(ANY, Lease(term_seconds=1, grace_seconds=0))

    await in_status(provider, instance.id, InstanceStatus.GONE)
    assert cloud.account[instance.id].status == "Completed"


@pytest.mark.thorough
async def test_a_machine_that_nobody_ever_reaches_ends_itself(cloud, provider):
    cloud.sshd_never = False
    script = f"sleep 0.1; until [ -e nothing ]; do {provider.shutdown_command}; sleep 0.2; done"

    instance = await launched(provider, first_script=script)

    await in_status(provider, instance.id, InstanceStatus.GONE)
    assert cloud.account[instance.id].status == "Completed"


@pytest.mark.thorough
async def test_what_a_job_is_given_for_its_trainer_stays_nowhere_in_the_account(
    cloud, provider, running
):
    instance, workplace, _ = running

    result = await workplace.call("echo", {"HF_TOKEN": "hf_secret"}, "trainer")

    assert result.exit_code == 0
    assert b"hf_secret" not in b"".join(content for content, _ in cloud.s3.objects.values())
    described = await provider._described(instance.id)
    assert "hf_secret" not in json.dumps(described, default=str)
    assert str(mark()) in json.dumps(described, default=str)


def test_a_mailbox_by_botocore_is_the_same_as_by_obstore(cloud, provider):
    options = {"endpoint": cloud.s3.url, "client_options": {"allow_http": True}}
    url = "s3://models/jobs/one"
    assert KEY
    assert SECRET
    for kind in (libraries.ByBotocore, libraries.ByObstore):
        other = kind(url, options)
        assert other.get("in/1") is None
        other.put("in/1", b"x")
        assert cloud.s3.content("jobs/one/in/1") == b"x"
        assert other.get("in/1") == b"x"
        other.remove("in/1")
        other.remove("in/1")
        assert other.get("in/1") is None
