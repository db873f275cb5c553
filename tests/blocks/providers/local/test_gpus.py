import subprocess
import sys
from pathlib import Path

import pytest

from blocks.providers.local.gpu import Gpu
from blocks.providers.local.gpus import choose, gpus, grouped, visible
from trainer.contract.errors import CapacityError

ROOT = Path(__file__).parents[3]
SMALL = Gpu(index=0, uuid="GPU-aa11", name="NVIDIA T4", free_gb=3.14)
LARGE = Gpu(index=1, uuid="GPU-bb22", name="NVIDIA A100", free_gb=70.0)
MEDIUM = Gpu(index=2, uuid="GPU-ab33", name="NVIDIA L4", free_gb=20.0)
ALL = [SMALL, LARGE, MEDIUM]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, ALL),
        ("", []),
        ("-1", []),
        ("2,0", [MEDIUM, SMALL]),
        ("GPU-bb22", [LARGE]),
        ("GPU-b", [LARGE]),
        ("GPU-a", []),  # two begin so
        ("1, -1, 0", [LARGE]),
        ("7", []),
    ],
)
def test_cuda_visible_devices_limits_what_is_there(setting, expected):
    assert visible(ALL, setting) == expected


def test_the_gpu_with_the_most_free_memory_comes_first():
    assert choose(ALL, min_vram_gb=None, taken=[]) == [LARGE, MEDIUM, SMALL]
    assert choose(ALL, min_vram_gb=20, taken=[]) == [LARGE, MEDIUM]


def test_a_gpu_that_jobs_have_comes_last():
    assert choose(ALL, min_vram_gb=10, taken=["GPU-bb22"]) == [MEDIUM, LARGE]
    taken = ["GPU-bb22", "GPU-bb22", "GPU-ab33"]
    assert choose(ALL, min_vram_gb=10, taken=taken) == [MEDIUM, LARGE]


def test_too_little_memory_is_told_with_what_each_gpu_has():
    with pytest.raises(CapacityError) as caught:
        choose([SMALL, MEDIUM], min_vram_gb=24, taken=[])

    assert caught.value.message == (
        "No GPU with 24 GiB free: GPU 0 (NVIDIA T4) has 3.1 GiB free; "
        "GPU 2 (NVIDIA L4) has 20.0 GiB free."
    )


def test_gpus_that_train_together_are_of_one_kind():
    twin = Gpu(index=5, uuid="GPU-ff55", name=MEDIUM.name, free_gb=9.0)

    assert grouped([LARGE, MEDIUM, SMALL, twin], 2) == [(MEDIUM, twin)]
    assert grouped([LARGE, MEDIUM], 1) == [(LARGE,), (MEDIUM,)]
    with pytest.raises(CapacityError, match="asks for 3 GPUs of one kind: GPU"):
        grouped([LARGE, MEDIUM, SMALL, twin], 3)


def test_no_gpu_is_told_with_the_way_to_train_without():
    with pytest.raises(CapacityError, match=r"gpu_count asks for one.*gpu_count: 0"):
        choose([], min_vram_gb=None, taken=[])


def test_without_the_nvml_package_there_are_no_gpus(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # as if it could not be imported

    assert gpus() == []


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a driver")
def test_without_a_driver_there_are_no_gpus():
    assert gpus() == []


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="no GPU")
def test_every_gpu_is_told_as_the_driver_tells_it():
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split(", ") for line in lines]

    found = gpus()

    assert [[str(gpu.index), gpu.uuid, gpu.name] for gpu in found] == [row[:3] for row in rows]
    for gpu, row in zip(found, rows, strict=True):
        assert 0 < gpu.free_gb <= float(row[3].removesuffix(" MiB")) / 1024


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="no GPU")
def test_cuda_knows_a_gpu_by_the_id_that_we_give():
    torch = pytest.importorskip("torch")
    gpu = gpus()[-1]
    code = "import torch; print(torch.cuda.device_count(), torch.cuda.get_device_name(0))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"CUDA_VISIBLE_DEVICES": gpu.uuid, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    assert torch.version.cuda
    assert result.stdout == f"1 {gpu.name}\n"
