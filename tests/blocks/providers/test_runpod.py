import asyncio
import dataclasses
import math
import shutil
import sys
import time

import asyncssh
import pytest

from blocks.keys import MachineKeys
from blocks.models import InstanceStatus
from blocks.providers import runpod
from blocks.providers.gpu_names import matches
from blocks.providers.runpod import RunPod
from tests.clouds.cloud import Fault
from tests.clouds.runpod import RunPodCloud
from trainer.config import Limits, Resources
from trainer.errors import (
    CapacityError,
    ConfigError,
    CredentialsError,
    FundsError,
    ProviderError,
    RateLimited,
)

NAME = "to-0123abcd-9f-1"
CREATE = {"method": "POST", "path": "/v2/pods$"}
RTX = Resources(gpu_types=["rtx4090"])


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    monkeypatch.setattr(runpod, "LIST_SECONDS", 0.0)
    monkeypatch.setattr(runpod, "CREATE_SECONDS", 0.5)
    monkeypatch.setattr(RunPod, "settle_seconds", 1.0)
    with RunPodCloud(tmp_path / "cloud") as cloud:
        yield cloud
    assert cloud.errors == []
    assert cloud.contract.violations == []


@pytest.fixture
def provider(cloud):
    return RunPod(api_key=cloud.key, api_url=cloud.url)


async def launched(provider, name=NAME, resources=RTX):
    [offer, *_] = await provider.offers(resources, Limits())
    return await provider.launch(offer, name, MachineKeys(name).public_key())


async def until(provider, id, status):
    async with asyncio.timeout(20):
        while True:
            instance = await provider.describe(id)
            if instance.status is status:
                return instance
            await asyncio.sleep(0.02)


async def connection(instance):
    """Log in, with the patience that a fresh sshd needs."""
    key = MachineKeys(instance.name).private_key
    async with asyncio.timeout(20):
        while True:
            try:
                return await asyncssh.connect(
                    instance.address,
                    instance.port,
                    username=instance.user,
                    client_keys=[key],
                    known_hosts=None,
                    config=[],
                )
            except (OSError, asyncssh.Error):
                await asyncio.sleep(0.05)


def creates(cloud):
    return cloud.calls()["POST", "/v2/pods"]


async def test_gpus_are_offered_cheapest_first_at_the_price_of_the_pod(provider):
    offers = await provider.offers(Resources(), Limits())

    assert [(offer.instance_type, offer.price_per_hour) for offer in offers] == [
        ("NVIDIA L4", 0.39),
        ("NVIDIA GeForce RTX 4090", 0.69),
        ("NVIDIA L40S", 0.86),
        ("NVIDIA A100 80GB PCIe", 1.39),
        ("NVIDIA H100 80GB HBM3", 2.69),
    ]
    assert {offer.gpu_count for offer in offers} == {1}
    assert offers[1].host == "NVIDIA GeForce RTX 4090@SECURE"


@pytest.mark.parametrize(
    ("wanted", "types"),
    [
        (Resources(gpu_types=["L4"]), ["NVIDIA L4"]),
        (Resources(gpu_types=["a100", "h100 sxm"]), ["NVIDIA A100 80GB PCIe", "NVIDIA H100 80GB HBM3"]),
        (Resources(min_vram_gb=48), ["NVIDIA L40S", "NVIDIA A100 80GB PCIe", "NVIDIA H100 80GB HBM3"]),
        (Resources(regions=["us-tx-3"]), ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]),
        (Resources(gpu_count=0), ["cpu3c-4", "cpu3g-4", "cpu3m-4"]),
        (Resources(gpu_count=0, min_ram_gb=20), ["cpu3m-4", "cpu3g-8", "cpu3c-16"]),
    ],
    ids=["type", "types", "vram", "region", "cpu", "ram"],
)  # fmt: skip
async def test_offers_are_what_is_asked_for(provider, wanted, types):
    offers = await provider.offers(wanted, Limits())

    assert [offer.instance_type for offer in offers] == types


@pytest.mark.parametrize(
    ("wanted", "limits", "words"),
    [
        (Resources(spot=True), Limits(), "no spot"),
        (RTX, Limits(max_price_per_hour=0.5), r"costs 0\.69 USD.*max_price_per_hour = 0\.5"),
        (Resources(gpu_types=["A5000"]), Limits(), r"none free of what fits: RTX A5000 at 0\.27"),
        (Resources(gpu_types=["MI300X"]), Limits(), "no kind of machine"),
        (Resources(gpu_types=["H100"], regions=["EU-RO-1"]), Limits(), "none free"),
    ],
    ids=["spot", "price", "stock", "maker", "region"],
)
async def test_why_there_is_no_offer_is_told(provider, wanted, limits, words):
    with pytest.raises(CapacityError, match=words):
        await provider.offers(wanted, limits)


@pytest.mark.parametrize(
    ("part", "name", "found"),
    [
        ("rtx-4090", "NVIDIA GeForce RTX 4090", True),
        ("RTX 6000 Ada", "RTX 6000Ada", True),
        ("4090", "RTX4090", True),
        ("A10", "NVIDIA A100", False),
        ("L4", "NVIDIA L40S", False),
        ("H200", "NVIDIA GH200", False),
    ],
)
def test_a_part_of_a_gpus_name_finds_it(part, name, found):
    assert matches([part], None, name) is found


async def test_a_pod_boots_until_ssh_answers(provider, cloud):
    cloud.sshd_delay = 0.3
    started = await launched(provider)

    instance = await until(provider, started.id, InstanceStatus.RUNNING)
    (await connection(instance)).abort()
    async with provider.machine(instance) as machine:
        said = await machine.run(["sh", "-c", "nvidia-smi && echo $RUNPOD_POD_ID"])

    assert (started.status, started.address) == (InstanceStatus.PROVISIONING, "")
    assert started.host == instance.host == "NVIDIA GeForce RTX 4090@SECURE"
    assert (instance.region, instance.price_per_hour) == ("EU-RO-1", 0.69)
    assert said.stdout.splitlines() == ["NVIDIA GeForce RTX 4090, 24564", instance.id]


@pytest.mark.parametrize("resources", [Resources(gpu_count=0), Resources(min_ram_gb=64, regions=["EU-RO-1"])])  # fmt: skip
async def test_the_pod_is_what_was_offered(provider, cloud, resources):
    [offer, *_] = await provider.offers(resources, Limits())

    instance = await provider.launch(offer, NAME, None)

    assert (instance.instance_type, instance.host) == (offer.instance_type, offer.host)
    assert (instance.gpu_type, instance.gpu_count) == (offer.gpu_type, offer.gpu_count)
    assert instance.price_per_hour == pytest.approx(offer.price_per_hour)
    [pod] = cloud.all
    assert pod.facts["asked"].disk >= 20
    assert pod.facts["asked"].dataCenterIds == resources.regions


async def test_running_without_an_address_is_not_running_yet(provider, cloud):
    cloud.direct_delay = math.inf
    instance = await launched(provider)
    async with asyncio.timeout(20):
        while instance.detail != "RUNNING, without an address for SSH yet":
            assert (instance.status, instance.address) == (InstanceStatus.PROVISIONING, "")
            instance = await provider.describe(instance.id)

    assert instance.status is InstanceStatus.PROVISIONING


async def test_a_name_that_is_taken_is_adopted(provider, cloud):
    first = await launched(provider)

    assert (await launched(provider)).id == first.id
    assert creates(cloud) == 1


@pytest.mark.parametrize(
    "kind", ["commit_then_status", "commit_then_drop", "commit_then_silence", "truncated", "empty"]
)
async def test_a_create_whose_answer_is_lost_is_adopted(provider, cloud, kind):
    cloud.list_lag = 0.6
    cloud.faults.add(Fault(kind=kind, **CREATE))

    instance = await launched(provider)

    assert (instance.name, cloud.alive()) == (NAME, [instance.id])
    assert creates(cloud) == 1


@pytest.mark.parametrize("kind", ["drop", "html", "silence"])
async def test_a_create_that_came_to_nothing_is_a_lack_of_capacity(provider, cloud, kind):
    cloud.faults.add(Fault(kind=kind, **CREATE))

    with pytest.raises(CapacityError, match=r"Nothing came of it in 1 s"):
        await launched(provider)

    assert (creates(cloud), cloud.alive()) == (1, [])


@pytest.mark.parametrize(
    ("trouble", "error", "words"),
    [
        ({"no_capacity": True}, CapacityError, "No NVIDIA GeForce RTX 4090 in SECURE: .*no longer"),
        ({"forbidden": {"NVIDIA GeForce RTX 4090"}}, CapacityError, "access denied"),
        ({"no_funds": True}, FundsError, "insufficient balance.*billing"),
        ({"expired": True}, CredentialsError, "api key expired.*RUNPOD_API_KEY"),
    ],
    ids=["capacity", "pool", "funds", "key"],
)
async def test_a_refusal_tells_what_to_do_next(provider, cloud, trouble, error, words):
    [offer, *_] = await provider.offers(RTX, Limits())
    vars(cloud).update(trouble)

    with pytest.raises(error, match=words):
        await provider.launch(offer, NAME, None)

    assert cloud.alive() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": "missing/image"}, "not found on the registry"),
        ({"image": "x" * 110_000}, "exceeds"),
        ({"image": ""}, "Request validation failed. image: is required"),
    ],
    ids=["registry", "large", "schema"],
)
async def test_settings_that_cannot_work_are_the_users(provider, changes, words):
    [offer, *_] = await provider.offers(RTX, Limits())

    with pytest.raises(ConfigError, match=words):
        await provider.model_copy(update=changes).launch(offer, NAME, None)


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

    assert (instance.id, instance.name, instance.status) == (started.id, NAME, status)
    assert instance.status.is_billing


async def test_a_pod_that_the_platform_stopped_is_lost(provider, cloud):
    started = await launched(provider)
    await until(provider, started.id, InstanceStatus.RUNNING)

    cloud.preempt(started.id)

    instance = await provider.describe(started.id)
    assert (instance.status, instance.price_per_hour) == (InstanceStatus.LOST, 0.0)
    assert "stopped by the platform" in instance.detail


async def test_a_pod_that_somebody_deleted_is_gone(provider, cloud):
    started = await launched(provider)

    cloud.kill_machine(started.id)

    assert (await provider.describe(started.id)).status is InstanceStatus.GONE


async def test_a_pod_that_is_not_listed_yet_is_not_gone(provider, cloud):
    cloud.list_lag = math.inf

    started = await launched(provider)

    assert await provider.instances() == []
    assert (await provider.describe(started.id)).status is not InstanceStatus.GONE


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

    assert (await provider.describe(started.id)).status is InstanceStatus.GONE
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

    assert await provider.rename(started.id, "to-kept")

    assert await provider.find("to-kept") == dataclasses.replace(before, name="to-kept")
    assert await provider.find(NAME) is None
    cloud.kill_machine(started.id)
    assert not await provider.rename(started.id, "to-other")


async def test_all_pages_of_the_list_are_read(provider, cloud):
    cloud.page_size = 2
    cloud.never_boot = True
    names = {f"to-{number}" for number in range(5)}
    for name in names:
        await launched(provider, name)

    assert {instance.name for instance in await provider.instances()} == names
    assert (await provider.find("to-0")).name == "to-0"


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

    assert 1 <= time.monotonic() - since < 5


async def test_a_day_that_is_used_up_is_told_and_not_slept_through(provider, cloud):
    cloud.quotas = {"day": (1, 86400.0)}
    await provider.instances()

    with pytest.raises(RateLimited, match="RunPod asks to wait"):
        await provider.instances()


async def test_check_says_what_is_there(provider):
    await launched(provider)

    assert await provider.check() == "1 pods, 0.69 USD per hour"


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
async def test_the_farewell_deletes_the_pod_and_shows_nobody_its_key(
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
        await machine.run(command, input=f"{provider.farewell}\n")

    assert (await until(provider, started.id, InstanceStatus.GONE)).status is InstanceStatus.GONE
    key = cloud.account[started.id].key
    assert started.id in seen.read_text()
    assert key not in seen.read_text() + provider.farewell


def test_the_farewell_is_one_line():
    assert RunPod.farewell.strip()
    assert "\n" not in RunPod.farewell
