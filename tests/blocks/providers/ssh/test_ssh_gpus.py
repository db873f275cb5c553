"""GPUs of hosts that one owns are held there, by whoever trains on them."""

from __future__ import annotations

import sys

import pytest

from blocks.providers.ssh.gpus import read_uses
from tests.blocks.providers.ssh.ssh_owned import launched, offers_of, provider_of
from tests.waiting import until
from trainer.contract.errors import CapacityError, GpusBusy, GpusTaken
from trainer.contract.gpu_files import mark_sick
from trainer.contract.gpu_locks import Allocation, Holder, holders, take

L4S = [f"NVIDIA L4, 23034, 22000, GPU-{number}" for number in range(3)]


async def test_gpus_that_are_locked_on_the_host_are_passed_over(host):
    # The host's processes find the locks where this test's do: on one computer they are the same.
    provider = provider_of(host(*L4S))
    mark_sick("GPU-2", "the driver reported Xid 79")

    with take(Allocation(uuids=("GPU-0",)), Holder.here(name="another")):
        assert [offer.gpu_ids for offer in await offers_of(provider)] == [("GPU-1",)]
        with pytest.raises(GpusBusy, match=r"127.0.0.1.*GPU 0 .* is taken by another of "):
            await offers_of(provider, gpu_count=2)
    half = Allocation(uuids=("GPU-0",), share_gb=10, vram_gb=22)
    with (
        take(half, Holder.here(name="a")),
        take(half, Holder.here(name="b")),
        pytest.raises(GpusBusy, match=r" of .*, 10 GiB of it.*; . of .*, 10 GiB of it"),
    ):
        await offers_of(provider, gpu_count=2)
    assert [offer.gpu_ids for offer in await offers_of(provider)] == [("GPU-0",), ("GPU-1",)]
    with pytest.raises(CapacityError, match="asks for 3 GPUs of one kind"):
        await offers_of(provider, gpu_count=3)


def test_what_a_host_says_is_taken_with_care():
    lines = [
        ("boot", "b"),
        ("gpulock", "GPU-0 0 EOF"),
        ("gpulock", "GPU-1 x y z"),
        ("gpulock", "GPU-2 9 5"),
        ("gpunote", 'GPU-0.0.json {"name": "mine", "pid": "x"}'),
        ("gpunote", "GPU-2.9.json " + "[" * 4000),
        ("gpunote", 'GPU-3.sick {"reason": "lost", "boot": "b"}'),
        ("gpunote", 'GPU-4.sick {"reason": "lost", "boot": "another"}'),
        ("gpuapp", "GPU-5, 77, 2048, /usr/bin/ollama, serve"),
        ("gpuapp", "NVIDIA L4, 23034, 22000, GPU-aa11"),
    ]

    uses = read_uses(lines)

    assert [one.name for one in uses.holders["GPU-0"]] == ["mine"]
    assert uses.holders["GPU-2"][0].share_gb == 0
    assert uses.sick == {"GPU-3": "lost"}
    assert [str(one) for one in uses.processes["GPU-5"]] == [
        "ollama, serve of somebody (77, 2.0 GiB)"
    ]
    assert set(uses.processes) == {"GPU-5"}


@pytest.mark.thorough
async def test_a_training_on_a_host_holds_its_gpus_there(host):
    provider = provider_of(host(*L4S))
    instances = [await launched(provider, attempt, gpu_count=1) for attempt in (1, 2)]
    assert instances[0].gpu_ids == ("GPU-0",)
    places = [provider.workplace(one) for one in instances]
    command = ["sh", "-c", "while [ ! -e go ]; do sleep 0.1; done"]
    for place in places:
        await place.write("job.json", {"name": "mine", "command": command})
        await place.write("gpus.json", {"uuids": ["GPU-0"]})

    assert not await places[0].start(sys.executable, {})
    assert [one.name for one in holders("GPU-0")] == ["mine"]
    with pytest.raises(GpusTaken, match="GPU-0 is taken by mine of "):
        await places[1].start(sys.executable, {})
    assert not (await places[1].examine(sys.executable))["alive"]

    await provider.terminate(instances[0].id)
    await until(lambda: not holders("GPU-0"))
    for place in places:
        await place.close()
