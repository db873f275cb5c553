"""Vast.ai: machines that are taken back, refuse to go, or end themselves."""

import asyncio
import shutil
import sys

import pytest

from blocks.models import InstanceStatus
from blocks.providers.vast import VastAI
from blocks.providers.vast.container import DESTROY_ITSELF
from tests.blocks.providers.rented_account import mark, until
from tests.blocks.providers.vast.vast_account import launched
from trainer.contract.errors import (
    CredentialsError,
    ProviderError,
)


async def test_a_preempted_instance_is_lost_until_it_is_destroyed(cloud, provider, key):
    instance = await launched(provider, key)
    await until(provider, instance.id, InstanceStatus.RUNNING)
    cloud.preempt(instance.id)
    lost = await provider.describe(instance.id)
    cloud.resume(instance.id)
    await until(provider, instance.id, InstanceStatus.RUNNING)
    await provider.terminate(instance.id)

    assert lost.status is InstanceStatus.LOST
    assert cloud.alive() == []


async def test_a_host_that_is_lost_is_unknown_with_the_reason(cloud, provider, key):
    instance = await launched(provider, key)
    cloud.lose_host(instance.id)

    seen = await provider.describe(instance.id)

    assert (seen.status, seen.detail[:7]) == (InstanceStatus.UNKNOWN, "offline")


async def test_a_refused_or_ignored_terminate_shows(cloud, provider, key):
    instance = await launched(provider, key)
    cloud.terminate_refuses = cloud.terminate_ignored = 1

    with pytest.raises(ProviderError, match="in progress"):
        await provider.terminate(instance.id)
    await provider.terminate(instance.id)

    assert (await provider.describe(instance.id)).status.is_billing
    assert cloud.alive() == [instance.id]


async def test_rename(provider, key):
    instance = await launched(provider, key)

    assert await provider.remark(instance.id, mark(2))
    assert (await provider.find(mark(2))).id == instance.id


def test_the_shutdown_command_is_one_line_and_ends_with_a_power_off():
    assert "\n" not in VastAI.shutdown_command
    assert VastAI.shutdown_command.endswith("kill 1")


def observed(folder, programs):
    """Return a PATH with these programs only; each notes its command line in `argv`."""
    (folder / "programs").mkdir()
    for name in programs:
        real = sys.executable if name == "python3" else shutil.which(name)
        noted = f'echo {name} "$@" >> {folder}/argv; exec {real} "$@"'
        (folder / "programs" / name).write_text(f"#!/bin/sh\n{noted}\n")
        (folder / "programs" / name).chmod(0o755)
    return str(folder / "programs")


@pytest.mark.parametrize("without_curl", [False, True])
async def test_a_machine_ends_itself_and_shows_no_key(cloud, provider, key, tmp_path, without_curl):
    instance = await launched(provider, key)
    rented = cloud.account[instance.id]
    programs = ["python3", "grep", "sed", "tr", "printenv", *([] if without_curl else ["curl"])]
    environment = {**cloud.environment(rented), "PATH": observed(tmp_path, programs)}

    process = await asyncio.create_subprocess_exec("/bin/sh", "-c", DESTROY_ITSELF, env=environment)
    code = await process.wait()

    assert code == 0
    assert cloud.alive() == []
    assert rented.key not in (tmp_path / "argv").read_text()


async def test_the_key_of_a_machine_opens_nothing_else(cloud, provider, key):
    first = await launched(provider, key)
    second = await launched(provider, key, "second")
    stranger = VastAI(api_key=cloud.account[first.id].key)

    with pytest.raises(CredentialsError):
        await stranger.terminate(second.id)


@pytest.mark.parametrize("given", [None, "", "two words", "schlüssel"])
async def test_a_key_that_is_none_is_refused_without_being_shown(cloud, monkeypatch, given):
    monkeypatch.delenv("VAST_API_KEY")
    provider = VastAI(api_key=given)

    with pytest.raises(CredentialsError, match="VAST_API_KEY") as caught:
        await provider.check()

    assert provider.is_configured() is bool(given)
    assert not given or given not in str(caught.value)
