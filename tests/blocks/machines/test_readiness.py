import os
import subprocess
from contextlib import asynccontextmanager, contextmanager

import pytest

from blocks.keys import MachineKeys
from blocks.machines import readiness
from blocks.machines.hardware import same_gpu
from blocks.machines.readiness import become_ready
from blocks.machines.ssh import SshMachine
from tests.clouds.machines import Profile, SshdMachine
from trainer.contract.errors import BootError

GPU = "NVIDIA GeForce RTX 4090, 24564"


@pytest.fixture
def hire(tmp_path):
    """Return a function that starts a machine and connects to it."""

    @asynccontextmanager
    async def start(**profile):
        keys = MachineKeys("hired")
        public = keys.public_key()
        with SshdMachine(tmp_path, public_keys=[public], profile=Profile(**profile)) as hired:
            async with SshMachine(
                hired.address,
                port=hired.port,
                user=hired.user,
                private_key=keys.private_key,
                host_key=keys.host_key,
            ) as machine:
                yield machine, hired

    return start


async def ready(machine, gpu_count=1, gpu_type=None, disk_gb=None):
    return await become_ready(machine, gpu_count=gpu_count, gpu_type=gpu_type, disk_gb=disk_gb)


async def test_a_machine_that_has_what_was_hired_gets_our_folder(hire):
    async with hire(gpus=(GPU, GPU)) as (machine, hired):
        facts = await ready(machine, gpu_count=2, gpu_type="RTX 4090", disk_gb=0.01)

    assert facts.home == str(hired.home)
    assert facts.base == str(hired.home / ".training-orchestrator")
    assert facts.gpus == (("NVIDIA GeForce RTX 4090", 24564),) * 2
    assert facts.disk_free_gb > 0.01
    assert facts.python
    assert os.access(facts.python, os.X_OK)
    assert (hired.home / ".training-orchestrator").stat().st_mode & 0o777 == 0o700
    assert list((hired.home / ".training-orchestrator").iterdir()) == []
    assert (hired.home / ".no_auto_tmux").exists()


async def test_a_cpu_machine_needs_no_gpu_and_may_greet_at_login(hire):
    async with hire() as (machine, hired):
        (hired.home / ".bashrc").write_text("echo '@home /elsewhere'; echo hello; tmux\n")

        facts = await ready(machine, gpu_count=0)

    assert (facts.gpus, facts.home) == ((), str(hired.home))


@pytest.mark.parametrize(
    ("gpus", "asked", "complaint"),
    [
        ((), {}, "no GPU: there is no nvidia-smi"),
        ((GPU,), {"gpu_count": 2}, "has 1 GPUs that work, 2 were hired"),
        ((GPU, "NVIDIA L4, [GPU requires reset]"), {"gpu_count": 2}, "has 1 GPUs that work"),
        ((GPU,), {"gpu_type": "RTX 3090"}, "RTX 4090 with 24564 MiB, RTX 3090 was hired"),
    ],
)
async def test_a_machine_without_the_gpus_that_were_hired_is_refused(hire, gpus, asked, complaint):
    async with hire(gpus=gpus) as (machine, _):
        with pytest.raises(BootError, match=complaint):
            await ready(machine, **asked)


async def test_a_driver_that_fails_is_quoted(hire, tmp_path):
    async with hire(gpus=(GPU,)) as (machine, _):
        (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\necho 'Driver mismatch'; exit 18\n")

        with pytest.raises(BootError, match="nvidia-smi fails with exit code 18: Driver mismatch"):
            await ready(machine)


# What a warm image may bring: torch for CUDA, which tells more of a GPU than its driver does.
TORCH = """
class cuda:
    device_count = staticmethod(lambda: {count})
    synchronize = staticmethod(lambda *_: None)
def ones(*size, device):
    {ones}
"""


@pytest.mark.parametrize(
    ("count", "ones", "complaint"),
    [
        (1, "raise RuntimeError('CUDA error: uncorrectable ECC')", "GPU 0: CUDA error: uncorr"),
        (0, "pass", "CUDA sees 0 GPUs on the machine, 1 were hired"),
        (1, "import time; time.sleep(60)", "does not multiply two matrices within"),
    ],
)
async def test_a_gpu_that_does_not_compute_is_refused(
    hire, tmp_path, monkeypatch, count, ones, complaint
):
    monkeypatch.setattr(readiness, "_SCRIPT", readiness._SCRIPT.replace("$within 60", "$within 1"))
    torch = tmp_path / "packages" / "torch"
    torch.mkdir(parents=True)
    (torch / "version.py").write_text("cuda: str = '12.8'\n")
    (torch / "__init__.py").write_text(TORCH.format(count=count, ones=ones))
    paths = {"PYTHONPATH": str(torch.parent)}

    async with hire(gpus=(GPU,), environment=paths) as (machine, _):
        with pytest.raises(BootError, match=complaint):
            await ready(machine)


async def test_too_small_a_disk_is_refused_with_both_sizes(hire):
    async with hire() as (machine, _):
        with pytest.raises(BootError, match=r"1e\+06 GiB were asked for, [\d.]+ GiB are free in"):
            await ready(machine, gpu_count=0, disk_gb=1e6)


@contextmanager
def mounted(folder, options):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.parametrize(
    ("options", "complaint"),
    [("size=1m,ro", "Read-only file system"), ("size=4k", "No space left on device")],
)
async def test_a_disk_that_cannot_be_written_is_refused(hire, options, complaint):
    async with hire() as (machine, hired):
        disk = hired.home / ".training-orchestrator"
        disk.mkdir()
        refusal = pytest.raises(BootError, match=f"cannot be written: .*{complaint}")
        with mounted(disk, options), refusal:
            await ready(machine, gpu_count=0)


@pytest.mark.parametrize(
    ("asked", "found", "is_same"),
    [
        ("RTX 4090", "NVIDIA GeForce RTX 4090", True),
        ("A100 SXM4", "NVIDIA A100-SXM4-80GB", True),
        ("1x A100 (40 GB SXM4)", "NVIDIA A100-SXM4-40GB", True),
        ("RTX 6000Ada", "NVIDIA RTX 6000 Ada Generation", True),
        ("H100 SXM", "NVIDIA H100 80GB HBM3", True),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", True),
        ("l40s", "NVIDIA L40S", True),
        ("A10", "NVIDIA A100-SXM4-40GB", False),
        ("RTX A6000", "NVIDIA RTX 6000 Ada Generation", False),
        ("RTX 4090", "NVIDIA GeForce RTX 4080", False),
        ("H100", "NVIDIA GH200 480GB", False),
        ("RTX 3080 Ti", "NVIDIA GeForce RTX 3080", False),
    ],
)
def test_gpus_are_told_apart_by_their_model(asked, found, is_same):
    assert same_gpu(asked, found) is is_same


def test_the_memory_that_a_name_promises_must_be_there():
    assert same_gpu("A100 80GB", "NVIDIA A100-SXM4-80GB", 81920)
    assert same_gpu("RTX 4090 24 GB", "NVIDIA GeForce RTX 4090", 24564)
    assert not same_gpu("A100 80GB", "NVIDIA A100-SXM4-40GB", 40960)
