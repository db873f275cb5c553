from __future__ import annotations

import os
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from blocks.providers.local import nvml
from blocks.providers.local.gpus import inventory
from tests.blocks.providers.local.nvml_driver import GIB, Chip, Driver
from trainer.contract.errors import GpusTaken
from trainer.contract.gpu_files import sickness
from trainer.contract.gpu_locks import Allocation, Holder, take


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(nvml, "_driver", nvml._Driver())


def test_what_the_driver_says_of_a_gpu(monkeypatch):
    process = SimpleNamespace(pid=os.getpid(), usedGpuMemory=2 * GIB)
    hidden = SimpleNamespace(pid=2**22 + 1, usedGpuMemory=None)
    Driver(monkeypatch, [Chip("GPU-a", used=12, processes=[process, hidden], ecc=None)])

    [gpu] = nvml.read()

    assert (gpu.index, gpu.uuid, gpu.name) == (0, "GPU-a", "NVIDIA A100")
    assert (gpu.free_gb, gpu.total_gb, gpu.utilisation, gpu.temperature) == (68, 80, 7, 41)
    assert (gpu.ecc_errors, gpu.xid, gpu.sick, gpu.parent) == (None, None, "", "")
    me = psutil.Process()
    assert [(one.pid, one.name, one.user, one.used_gb) for one in gpu.processes] == [
        (me.pid, me.name(), me.username(), 2),
        (2**22 + 1, "", "", None),
    ]


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"rows": (1, 1, 0, 0), "ecc": 3}, ""),  # replaced by the GPU itself
        ({"rows": (0, 1, 1, 0)}, "it needs a reset to replace broken rows of its memory"),
        ({"rows": (0, 0, 0, 1)}, "broken rows of its memory cannot be replaced any more"),
        ({"rows": None, "ecc": 2}, "its memory had 2 uncorrected ECC errors since"),
        ({"rows": None, "pending_pages": True}, "it needs a reset to retire broken pages"),
    ],
)
def test_a_gpu_whose_memory_is_broken_is_out_of_use(monkeypatch, facts, reason):
    Driver(monkeypatch, [Chip("GPU-a", **facts)])

    [gpu] = nvml.read()

    assert gpu.sick.startswith(reason)
    assert bool(gpu.sick) == bool(reason)


def test_an_xid_takes_a_gpu_out_of_use_for_everybody_unless_a_program_is_at_fault(monkeypatch):
    one, other = Chip("GPU-a"), Chip("GPU-b")
    driver = Driver(monkeypatch, [one, other])
    assert [gpu.sick for gpu in inventory()] == ["", ""]

    driver.events += [(one, 31), (other, 79), (other, 43)]
    found = inventory()

    assert [(gpu.xid, gpu.sick) for gpu in found] == [(31, ""), (79, "the driver reported Xid 79")]
    assert sickness("GPU-b") == "the driver reported Xid 79"
    assert set(driver.listened) == {"GPU-a", "GPU-b"}
    monkeypatch.setattr(nvml, "_driver", nvml._Driver())  # as in another process
    assert inventory()[1].why_not == "out of use: the driver reported Xid 79"


def test_a_gpu_that_falls_off_the_bus_is_shown_with_its_uuid_and_hides_no_other(monkeypatch):
    chips = [Chip("GPU-a"), Chip("GPU-b")]
    Driver(monkeypatch, chips)
    nvml.read()

    chips[0].lost = True
    lost, well = nvml.read()

    assert (lost.index, lost.uuid, lost.free_gb, lost.sick) == (0, "GPU-a", 0, "GPU is lost")
    assert (well.uuid, well.sick) == ("GPU-b", "")


def test_a_gpu_that_is_lost_while_it_is_asked_hides_no_other(monkeypatch):
    Driver(monkeypatch, [Chip("GPU-a"), Chip("GPU-b")])
    ask = pynvml.nvmlDeviceGetMemoryInfo

    def memory(chip):
        if chip.uuid == "GPU-a":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return ask(chip)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", memory)

    assert [(gpu.uuid, gpu.sick) for gpu in nvml.read()] == [
        ("GPU-a", "GPU is lost"),
        ("GPU-b", ""),
    ]


def test_the_parts_of_a_divided_gpu_are_gpus(monkeypatch):
    parts = [Chip("MIG-1", name="1g.10gb"), Chip("MIG-2", name="2g.20gb")]
    Driver(monkeypatch, [Chip("GPU-a", parts=parts, rows=(0, 0, 0, 1)), Chip("GPU-b")])

    found = nvml.read()

    assert [(gpu.index, gpu.uuid, gpu.parent) for gpu in found] == [
        (0, "MIG-1", "GPU-a"),
        (0, "MIG-2", "GPU-a"),
        (1, "GPU-b", ""),
    ]
    assert [bool(gpu.sick) for gpu in found] == [True, True, False]  # the whole is broken
    assert [gpu.utilisation for gpu in found] == [None, None, 7]
    with pytest.raises(GpusTaken, match="MIG-1 is out of use"):
        take(Allocation(uuids=("MIG-1",)), Holder.here())


def test_gpus_are_grouped_by_nvlink_and_else_by_their_node(monkeypatch):
    chips = [
        Chip("GPU-a", linked=("GPU-b",)),
        Chip("GPU-b", linked=("GPU-c",)),  # through others, too
        Chip("GPU-c"),
        Chip("GPU-d", node=1),
        Chip("GPU-e", node=1),
        Chip("GPU-f", node=2),
    ]
    Driver(monkeypatch, chips)

    islands = [gpu.island for gpu in nvml.read()]

    assert islands == ["nvlink 0"] * 3 + ["numa 3"] * 2 + ["numa 5"]


def test_a_driver_that_goes_away_leaves_no_gpu_and_is_listened_to_again(monkeypatch):
    driver = Driver(monkeypatch, [Chip("GPU-a")])
    nvml.read()

    def gone():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    with monkeypatch.context() as patch:
        patch.setattr(pynvml, "nvmlDeviceGetCount", gone)
        assert nvml.read() == []
    assert len(nvml.read()) == 1
    assert driver.listened == ["GPU-a", "GPU-a"]
