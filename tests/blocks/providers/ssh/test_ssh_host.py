"""Hosts one owns: what is offered, and launching on them."""

import json
from pathlib import Path

import pytest

from blocks.marks import Mark
from blocks.models import InstanceStatus
from blocks.providers.ssh import SshHost
from blocks.providers.ssh.hosts import Host, parse_host
from tests.blocks.providers.ssh.ssh_owned import RUN, launched, offers_of, provider_of
from trainer.config import Limits, Resources
from trainer.contract.errors import (
    CapacityError,
    ConfigError,
    ConnectionLost,
)

L4 = "NVIDIA L4, 23034, 22000, GPU-aa11"


A100 = "NVIDIA A100-SXM4-80GB, 81920, 80000, GPU-bb22"


def mode_of(path):
    return Path(path).stat().st_mode & 0o777


def test_hosts_are_read_as_people_write_them(monkeypatch):
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("LOGNAME", "me")

    assert parse_host("gpu-box") == Host("me", "gpu-box", 22)
    assert parse_host(" Alice@GPU-box.lan:2222 ") == Host("Alice", "gpu-box.lan", 2222)
    assert parse_host("root@[fd00::7]:22") == Host("root", "fd00::7", 22)
    assert parse_host(str(parse_host("root@[fd00::7]:22"))) == Host("root", "fd00::7", 22)


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "-oProxyCommand=x",
        "@h",
        "h:0",
        "h:99999",
        "h:x",
        "fd00::7",
        "[zz::1]",
        "u@h/x",
        "a;b",
    ],
)
async def test_what_is_no_host_is_named(text):
    with pytest.raises(ConfigError) as error:
        await SshHost(hosts=["fine", text]).offers(Resources(), Limits())

    assert repr(text) in error.value.message


async def test_it_is_configured_when_hosts_are_given(monkeypatch):
    assert not SshHost().is_configured()
    with pytest.raises(ConfigError, match="No SSH host is given"):
        await SshHost().offers(Resources(), Limits())

    monkeypatch.setenv("SSH_HOSTS", "a@one, two:23,")

    assert SshHost().is_configured()
    assert [one.address for one in SshHost().hosts_given()] == ["one", "two"]


async def test_every_gpu_of_every_host_is_offered(host):
    provider = provider_of(host(L4), host(A100, A100.replace("bb22", "cc33")), price_per_hour=0.2)

    offers = await offers_of(provider, disk_gb=0.01, min_ram_gb=0.1)

    assert [offer.gpu_ids for offer in offers] == [("GPU-bb22",), ("GPU-cc33",), ("GPU-aa11",)]
    assert offers[0].gpu_type == "NVIDIA A100-SXM4-80GB"
    assert offers[0].vram_gb == 80000 / 1024
    assert offers[0].price_per_hour == 0.2
    assert min(offers[0].disk_gb, offers[0].ram_gb) > 0
    assert len(await offers_of(provider, gpu_types=["L4"])) == 1
    assert len(await offers_of(provider, min_vram_gb=40)) == 2
    assert [offer.gpu_count for offer in await offers_of(provider, gpu_count=0)] == [0, 0]


async def test_a_host_that_does_not_fit_says_why(host):
    one, two = host(L4), host()
    provider = provider_of(one, two, price_per_hour=1.0)

    for resources, reasons in [
        ({"min_vram_gb": 40}, ["GPU 0 (NVIDIA L4) has 21.5 GiB free", "there is no nvidia-smi"]),
        ({"gpu_types": ["A10"]}, ["1 × NVIDIA L4, resources.gpu_types asks for A10"]),
        ({"disk_gb": 1e6}, ["GiB of disk are free, 1e+06 are asked for"]),
        ({"min_ram_gb": 1e6}, ["GiB of memory, 1e+06 are asked for"]),
        ({"spot": True}, ["never taken back"]),
        ({"regions": ["elsewhere"]}, ["not among resources.regions"]),
    ]:
        with pytest.raises(CapacityError, match="No SSH host fits") as error:
            await offers_of(provider, **resources)
        assert all(reason in error.value.message for reason in reasons)
        assert str(one.port) in error.value.message
        assert str(two.port) in error.value.message
    with pytest.raises(CapacityError, match=r"costs 1 USD/h, limits.max_price_per_hour is 0.5"):
        await offers_of(provider, Limits(max_price_per_hour=0.5))


async def test_without_a_wish_the_cpu_will_do_if_no_host_has_a_gpu(host):
    cpu = host()

    assert [offer.instance_type for offer in await offers_of(provider_of(cpu))] == ["CPU"]
    with pytest.raises(CapacityError, match="it has no GPU: there is no nvidia-smi"):
        await offers_of(provider_of(cpu), gpu_count=1)
    assert [one.gpu_type for one in await offers_of(provider_of(cpu, host(L4)))] == ["NVIDIA L4"]


async def test_a_dead_host_hides_no_other_and_none_is_a_lack_of_capacity(host):
    dead, alive = host(), host()
    provider = provider_of(dead, alive)
    assert len(await offers_of(provider)) == 2
    dead.stop()

    assert len(await offers_of(provider)) == 1
    assert (await provider.check()).startswith("2 hosts, 1 reachable: ")
    assert f"127.0.0.1:{dead.port} could not be reached" in await provider.check()

    alive.stop()
    with pytest.raises(CapacityError, match="No SSH host can be reached") as error:
        await offers_of(provider)
    assert str(dead.port) in error.value.message
    assert str(alive.port) in error.value.message


@pytest.mark.thorough
async def test_gpus_and_hosts_without_jobs_come_first(host):
    one, two = host(A100, L4), host(A100.replace("bb22", "dd44"))
    provider = provider_of(one, two)
    for attempt in (1, 2):
        offer = (await offers_of(provider))[0]
        await provider.launch(offer, Mark.of_run(RUN, attempt), None)

    order = [offer.gpu_ids[0] for offer in await offers_of(provider)]

    assert order == ["GPU-aa11", "GPU-bb22", "GPU-dd44"]
    assert len(await offers_of(provider_of(one, two), gpu_count=0)) == 2


async def test_launch_makes_a_private_job_directory_and_adopts_it_afterwards(host):
    machine = host(L4)
    provider = provider_of(machine, price_per_hour=0.5)

    instance = await launched(provider, gpu_count=1)

    name = Mark.of_run(RUN, 1)
    assert instance.id == f"{machine.user}@127.0.0.1:{machine.port}/{name}"
    assert instance.workspace == f"{machine.home}/.training-orchestrator/jobs/{name}"
    assert (instance.gpu_ids, instance.gpu_count) == (("GPU-aa11",), 1)
    assert (instance.status, instance.price_per_hour) == (InstanceStatus.RUNNING, 0.5)
    assert mode_of(instance.workspace) == 0o700
    (Path(instance.workspace) / "train.log").write_text("so far")
    assert await launched(provider, gpu_count=0) == instance
    assert await provider.find(name) == instance
    assert await provider.describe(instance.id) == instance
    assert await provider.instances() == [instance]
    assert (Path(instance.workspace) / "train.log").read_text() == "so far"


async def test_the_machine_of_an_instance_is_reached_by_the_owners_key(host):
    provider = provider_of(host())
    instance = await launched(provider)

    async with provider.machine(instance) as machine:
        await machine.write(f"{instance.workspace}/control.json", b"{}")

    assert (Path(instance.workspace) / "control.json").read_bytes() == b"{}"


async def test_what_an_unreachable_host_has_is_unknown_and_never_gone(host):
    machine, other = host(), host()
    provider = provider_of(machine, other)
    offer = next(one for one in await offers_of(provider) if str(machine.port) in one.id)
    instance = await provider.launch(offer, Mark.of_run(RUN, 1), None)
    machine.stop()

    described = await provider.describe(instance.id)
    assert described.status is InstanceStatus.UNKNOWN
    assert "could not be reached" in described.detail
    with pytest.raises(ConnectionLost, match=str(machine.port)):
        await provider.find(instance.mark)
    with pytest.raises(ConnectionLost, match=str(machine.port)):
        await provider.terminate(instance.id)
    assert await provider.instances() == []
    assert await provider.find(Mark.of_run(RUN, 2)) is None  # it was never launched
    with pytest.raises(CapacityError, match=str(machine.port)):
        await provider.launch(offer, Mark.of_run(RUN, 2), None)

    machine.start()
    assert (await provider.describe(instance.id)) == instance


@pytest.mark.thorough
async def test_rubbish_on_a_host_is_no_instance(host):
    machine = host()
    provider = provider_of(machine)
    instance = await launched(provider)
    jobs = Path(instance.workspace).parent
    for folder in ["x", "to-x", "to-12345678-$(touch pwned)", "to-12345678-a\n@job to-b {}"]:
        (jobs / folder).mkdir()
    for number, record in enumerate(
        ["", "[]", "{", "[" * 4000, '{"gpu_ids": "x"}', "\0\xff", "x" * 10**6, '{"gpu_count": -1}']
    ):
        (jobs / f"to-12345678-{number}").mkdir()
        (jobs / f"to-12345678-{number}" / "instance.json").write_text(record)
    lie = {"instance_type": "CPU", "gpu_type": None, "gpu_ids": [], "gpu_count": 0}
    lie |= {"workspace": "/etc", "address": "evil", "user": "x", "status": "gone", "provider": "z"}
    (Path(instance.workspace) / "instance.json").write_text(json.dumps(lie))

    found = await provider.instances()

    assert [one for one in found if one.status is InstanceStatus.RUNNING] == [instance]
    names = {one.id.rpartition("/")[2] for one in found}
    assert names - {str(instance.mark)} == {f"to-12345678-{n}" for n in range(8)}
    assert not (machine.home / "pwned").exists()


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "/etc", "to-1", "run-1", "to-12345678-A", "a/b"]
)
async def test_a_name_that_we_did_not_give_is_refused(name):
    provider = SshHost(hosts=["127.0.0.1:1"])
    for call in [provider.describe, provider.terminate]:
        with pytest.raises(
            ConfigError, match=r"cannot be the name of an instance|is not an SSH host"
        ):
            await call(f"me@127.0.0.1:1/{name}")
    with pytest.raises(ConfigError, match="cannot be the name of an instance"):
        await provider.find(name)
