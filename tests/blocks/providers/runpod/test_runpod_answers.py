"""RunPod: answers unlike the description, paces, and endings."""

import asyncio
import dataclasses
import math
import shutil
import sys
import time

import pytest

from blocks.models import InstanceStatus
from blocks.providers.runpod import RunPod
from tests.blocks.providers.rented_account import mark, until
from tests.blocks.providers.runpod.runpod_account import connection, launched
from tests.clouds.cloud import Fault
from trainer.contract.errors import (
    CredentialsError,
    ProviderError,
    RateLimited,
)


@pytest.mark.parametrize(
    ("trouble", "status"),
    [
        ({"unknown_status": "HIBERNATING"}, InstanceStatus.UNKNOWN),
        ({"null_fields": {"status", "ssh", "cost", "env", "gpu"}}, InstanceStatus.UNKNOWN),
        ({"missing_fields": {"status", "ssh", "cost", "pagination"}}, InstanceStatus.UNKNOWN),
        ({"missing_fields": {"direct"}}, InstanceStatus.PROVISIONING),
        ({"extra_fields": True}, InstanceStatus.RUNNING),
    ],
    ids=["word", "null", "missing", "no address", "extra"],
)
async def test_an_answer_unlike_the_description_is_still_a_pod_that_bills(
    provider, cloud, trouble, status
):
    started = await launched(provider)
    await until(provider, started.id, InstanceStatus.RUNNING)
    vars(cloud).update(trouble)

    [instance] = await provider.instances()

    assert (instance.id, instance.mark, instance.status) == (started.id, mark(), status)
    assert instance.status.is_billing


async def test_a_pod_that_the_platform_stopped_is_lost(provider, cloud):
    started = await launched(provider)
    await until(provider, started.id, InstanceStatus.RUNNING)

    cloud.preempt(started.id)

    instance = await provider.describe(started.id)
    assert (instance.status, instance.price_per_hour) == (InstanceStatus.LOST, None)
    assert "stopped by the platform" in instance.detail


async def test_a_pod_that_somebody_deleted_is_gone(provider, cloud):
    started = await launched(provider)

    cloud.kill_machine(started.id)

    assert (await provider.describe(started.id)).status is InstanceStatus.ABSENT


async def test_a_pod_that_is_not_listed_yet_is_not_gone(provider, cloud):
    cloud.list_lag = math.inf

    started = await launched(provider)

    assert await provider.instances() == []
    assert (await provider.describe(started.id)).status is not InstanceStatus.ABSENT


async def test_a_404_of_something_else_does_not_mean_gone(provider, cloud):
    cloud.list_lag = math.inf
    started = await launched(provider)
    body = {"title": "Not Found", "status": 404, "detail": "The requested path was not found."}
    cloud.faults.add(Fault(kind="status", status=404, body=body, path=started.id))
    cloud.faults.add(Fault(kind="html", status=404, path=started.id))

    for _ in range(2):
        with pytest.raises(ProviderError, match="HTTP 404"):
            await provider.describe(started.id)


async def test_terminate_may_be_repeated(provider, cloud):
    started = await launched(provider)

    await provider.terminate(started.id)
    await provider.terminate(started.id)

    assert (await provider.describe(started.id)).status is InstanceStatus.ABSENT
    assert cloud.alive() == []


async def test_a_terminate_that_is_refused_or_ignored_is_no_end(provider, cloud):
    started = await launched(provider)
    cloud.terminate_refuses, cloud.terminate_ignored = 1, 1

    with pytest.raises(ProviderError, match="HTTP 409"):
        await provider.terminate(started.id)
    await provider.terminate(started.id)

    assert (await provider.describe(started.id)).status.is_billing
    assert cloud.alive() == [started.id]


async def test_a_pod_is_renamed_and_runs_on(provider, cloud):
    started = await launched(provider)
    before = await until(provider, started.id, InstanceStatus.RUNNING)

    assert await provider.remark(started.id, mark(2))

    assert await provider.find(mark(2)) == dataclasses.replace(before, mark=mark(2))
    assert await provider.find(mark()) is None
    cloud.kill_machine(started.id)
    assert not await provider.remark(started.id, mark(3))


async def test_all_pages_of_the_list_are_read(provider, cloud):
    cloud.page_size = 2
    cloud.never_boot = True
    for number in range(1, 6):
        await launched(provider, number)

    assert {instance.mark for instance in await provider.instances()} == {
        mark(n) for n in range(1, 6)
    }
    assert (await provider.find(mark(1))).mark == mark(1)


async def test_fifty_runs_that_wait_cost_one_call(provider, cloud):
    cloud.never_boot = True
    started = await launched(provider)
    cloud.requests.clear()

    await asyncio.gather(*(provider.describe(started.id) for _ in range(50)))

    assert [request.path for request in cloud.requests] == ["/v2/pods"]


async def test_the_longest_of_the_windows_that_are_used_up_is_waited_for(provider, cloud):
    cloud.quotas = {"minute": (2, 1.0), "hour": (2, 2.0), "day": (1000, 86400.0)}
    since = time.monotonic()

    for _ in range(3):
        await provider.instances()

    assert time.monotonic() - since >= 2
    assert [request.status for request in cloud.requests] == [200, 200, 200]


async def test_a_429_is_waited_out_by_its_longest_window(provider, cloud):
    headers = {"Retry-After": "0", "RateLimit": '"minute";r=0;t=0, "hour";r=0;t=1, "day";r=9;t=99'}
    cloud.faults.add(Fault(kind="status", status=429, headers=headers))
    since = time.monotonic()

    await provider.instances()

    assert 1 <= time.monotonic() - since < 90


async def test_a_day_that_is_used_up_is_told_and_not_slept_through(provider, cloud):
    cloud.quotas = {"day": (1, 86400.0)}
    await provider.instances()

    with pytest.raises(RateLimited, match="RunPod asks to wait"):
        await provider.instances()


async def test_check_says_what_is_there(provider):
    await launched(provider)

    assert await provider.check() == "1 pod, 0.69 USD per hour"


async def test_a_key_is_asked_for_where_it_is_set(monkeypatch, cloud):
    monkeypatch.delenv("RUNPOD_API_KEY", raising=False)
    assert not RunPod().is_configured()
    with pytest.raises(CredentialsError, match=r"none is set.*RUNPOD_API_KEY"):
        await RunPod().check()

    for name, value in cloud.environ().items():
        monkeypatch.setenv(name, value)
    assert await RunPod().check() == "0 pods, 0 USD per hour"

    wrong = RunPod(api_key="canary-5f1c")
    with pytest.raises(CredentialsError, match="RUNPOD_API_KEY") as caught:
        await wrong.check()
    assert "canary" not in f"{caught.value} {wrong!r}"


TOOLS = {"curl": shutil.which("curl"), "python3": sys.executable, "wget": shutil.which("wget")}


@pytest.mark.parametrize("tool", [name for name, path in TOOLS.items() if path])
async def test_the_shutdown_command_deletes_the_pod_and_shows_nobody_its_key(
    provider, cloud, tool, tmp_path
):
    started = await launched(provider)
    instance = await until(provider, started.id, InstanceStatus.RUNNING)
    programs, seen = tmp_path / "programs", tmp_path / "arguments"
    programs.mkdir()
    for name in ["sed", "tr", "head", "cat", "mktemp", "rm"]:
        (programs / name).symlink_to(shutil.which(name))
    (programs / tool).write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >> {seen}\nexec {TOOLS[tool]} "$@"\n'
    )
    (programs / tool).chmod(0o755)

    async with await connection(instance) as machine:
        command = f"PATH={programs} /bin/sh >/dev/null 2>&1"
        await machine.run(command, input=f"{provider.shutdown_command}\n")

    assert (
        await until(provider, started.id, InstanceStatus.ABSENT)
    ).status is InstanceStatus.ABSENT
    key = cloud.account[started.id].key
    assert started.id in seen.read_text()
    assert key not in seen.read_text() + provider.shutdown_command


def test_the_shutdown_command_is_one_line():
    assert RunPod.shutdown_command.strip()
    assert "\n" not in RunPod.shutdown_command
