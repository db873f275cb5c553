"""Machines without inbound network, at every provider that has them."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

import pytest

from blocks.models import InstanceStatus
from blocks.providers import by_store
from tests.blocks.providers.rented_account import mark, until
from tests.waiting import PATIENCE
from trainer.config import Limits, Resources
from trainer.contract.errors import ConfigError, ConnectionLost

EVERYWHERE = pytest.mark.parametrize("cloud", ["aws", "azure", "gcp"], indirect=True)
THOROUGHLY = pytest.mark.parametrize(
    "cloud",
    ["aws", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("azure", "gcp"))],
    indirect=True,
)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExample us"


async def hired(provider):
    offer = (await provider.offers(Resources(gpu_count=1), Limits()))[0]
    return await provider.launch(offer, mark(), KEY, "sleep 600; shutdown -h now")


async def answering(machine):
    """Return a connection whose agent has come up."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            await machine.run(["true"])
        except ConnectionLost:
            assert time.monotonic() < deadline
        else:
            return machine


@THOROUGHLY
async def test_a_machine_without_an_address_is_worked_with_and_leaves_no_mailbox(cloud, provider):
    instance = await hired(provider)
    running = await until(provider, instance.id, InstanceStatus.RUNNING)

    assert instance.address == running.address == f"s3://models/mailboxes/{mark()}"
    assert running.beside_per_hour == 0.0
    assert (await provider.offers(Resources(gpu_count=1), Limits()))[0].beside_per_hour == 0.0
    async with await answering(provider.machine(running)) as machine:
        said = await machine.run(["sh", "-c", "env; nvidia-smi -L"])
        await machine.write(f"{cloud.folder}/x", b"y" * 70_000)
        assert await machine.read(f"{cloud.folder}/x") == b"y" * 70_000
    assert said.exit_code == 0
    assert "GPU 0" in said.stdout
    # Neither a key nor an address that is as good as one is in what a job inherits.
    assert cloud.s3.secret not in said.stdout
    assert "X-Amz-Signature" not in said.stdout

    await provider.terminate(instance.id)
    gone = {InstanceStatus.GONE, InstanceStatus.ABSENT}
    while (await provider.describe(instance.id)).status not in gone:
        pass
    assert cloud.s3.keys() == []
    assert cloud.alive() == []


@EVERYWHERE
async def test_what_was_hired_over_the_store_is_found_there_whatever_is_set_later(
    cloud, provider, monkeypatch
):
    cloud.sshd_never = True
    instance = await hired(provider)
    monkeypatch.setenv(f"{cloud.name.upper()}_CONNECTION", "ssh")
    monkeypatch.setenv("AWS_SSH_CIDR", "127.0.0.0/8")

    found = await provider.find(mark())

    assert found.address == instance.address


@pytest.mark.parametrize("cloud", ["gcp"], indirect=True)
async def test_a_mailbox_that_nobody_writes_to_goes_once_no_machine_has_it(
    cloud, provider, monkeypatch
):
    cloud.sshd_never = True
    instance = await hired(provider)
    other = f"mailboxes/{mark(2)}/grant"
    cloud.s3.objects[other] = b"{}", time.time()

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz or UTC) + timedelta(hours=2)

    await provider.sweep()
    assert cloud.s3.content(other) is not None  # it may be that of an order under way
    monkeypatch.setattr(by_store, "datetime", Later)
    await provider.sweep()

    kept = cloud.s3.keys()
    assert f"mailboxes/{instance.mark}/grant" in kept
    assert other not in kept


@EVERYWHERE
async def test_check_says_how_machines_are_reached(cloud, provider, monkeypatch):
    for name in ("AWS_SSH_CIDR", "AZURE_SSH_FROM"):
        monkeypatch.delenv(name, raising=False)
    cloud.boot_seconds = 0.0

    assert "mailboxes in s3://models/mailboxes by signed addresses" in await provider.check()
    assert cloud.s3.keys() == []


@pytest.mark.parametrize("cloud", ["aws"], indirect=True)
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"AWS_CONNECTION": "https"}, "AWS_CONNECTION = 'https' is neither ssh nor store"),
        ({"AWS_MAILBOX": ""}, "AWS_MAILBOX = '' is no bucket"),
        ({"AWS_MAILBOX": "/mnt/x"}, "AWS_MAILBOX = '/mnt/x' is no bucket"),
        (
            {"AWS_MAILBOX": "gs://models/x", "AWS_MAILBOX_BY_ROLE": "1"},
            "AWS_MAILBOX = 'gs://models/x' is no bucket",
        ),
        ({"AWS_MAILBOX_BY_ROLE": "1"}, "AWS_MAILBOX_BY_ROLE is set, and machines get no role"),
    ],
)
async def test_a_wrong_setting_is_named(cloud, provider, monkeypatch, changes, words):
    for name, value in changes.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=words):
        await provider.check()


@pytest.mark.parametrize("cloud", ["aws"], indirect=True)
async def test_a_region_with_public_subnets_only_is_no_place_for_machines_without_an_address(
    cloud, provider
):
    for region in cloud.regions.values():
        region.way_out = {"GatewayId": "igw-0a1"}

    with pytest.raises(Exception, match="route to a NAT gateway or an S3 endpoint"):
        await provider.offers(Resources(gpu_count=1), Limits())


@pytest.mark.parametrize("cloud", ["aws"], indirect=True)
async def test_a_machine_with_a_role_needs_no_signed_address(cloud, provider, monkeypatch):
    monkeypatch.setenv("AWS_MAILBOX_BY_ROLE", "1")
    monkeypatch.setenv("AWS_INSTANCE_PROFILE", "trainer")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    cloud.profiles.add("trainer")

    instance = await hired(provider)

    assert cloud.s3.keys() == []
    text = str(cloud.all[0].facts["asked"])
    assert "X-Amz" not in text
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text
    running = await until(provider, instance.id, InstanceStatus.RUNNING)
    async with await answering(provider.machine(running)) as machine:
        assert (await machine.run(["echo", "by its role"])).stdout == "by its role\n"
    assert cloud.s3.content(f"mailboxes/{mark()}/grant") is None
