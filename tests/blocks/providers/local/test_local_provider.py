import asyncio
import fcntl
import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from blocks.models import InstanceStatus, Offer
from blocks.providers.local import Local, occupants
from blocks.providers.local.gpus import gpus
from tests.blocks.providers.rented_account import mark
from tests.waiting import PATIENCE, until_now
from trainer.config import Limits, Resources
from trainer.contract.errors import CapacityError, ConfigError, ProviderError
from trainer.contract.job_directory import JobDirectory

ROOT = Path(__file__).parents[3]
OFFER = Offer(
    provider="local",
    instance_type="NVIDIA L4",
    region="local",
    price_per_hour=0.0,
    gpu_type="NVIDIA L4",
    gpu_count=1,
    gpu_ids=("GPU-aa11",),
)


@pytest.fixture
def provider(tmp_path):
    return Local(home=tmp_path / "home")


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("gpu_count", [None, 0])
async def test_a_computer_without_gpu_offers_its_cpu(provider, gpu_count):
    [offer] = await provider.offers(Resources(gpu_count=gpu_count, min_vram_gb=8), Limits())

    assert (offer.instance_type, offer.gpu_count, offer.gpu_ids) == ("CPU", 0, ())
    assert offer.price_per_hour == 0
    assert offer.disk_gb > 0
    assert offer.ram_gb > 0


@pytest.mark.usefixtures("no_gpu")
async def test_a_gpu_that_is_required_and_not_there_is_a_lack_of_capacity(provider):
    with pytest.raises(CapacityError, match="No NVIDIA GPU is visible"):
        await provider.offers(Resources(gpu_count=1), Limits())


@pytest.mark.usefixtures("no_gpu")
async def test_too_small_a_disk_is_a_lack_of_capacity(provider):
    with pytest.raises(CapacityError, match=r"1e\+09 GiB free: .*instances has [\d.]+ GiB free"):
        await provider.offers(Resources(disk_gb=1e9), Limits())


@pytest.mark.gpu
@pytest.mark.skipif(not gpus(), reason="no GPU")
async def test_a_computer_with_gpus_offers_each(provider):
    offers = await provider.offers(Resources(), Limits())

    assert {offer.gpu_ids for offer in offers} == {(gpu.uuid,) for gpu in gpus()}
    assert [offer.vram_gb for offer in offers] == sorted(
        (offer.vram_gb for offer in offers), reverse=True
    )
    with pytest.raises(CapacityError, match="No GPU with 100000 GiB free: GPU 0"):
        await provider.offers(Resources(min_vram_gb=100_000), Limits())


async def test_launch_makes_a_private_job_directory_with_what_the_offer_gives(provider, tmp_path):
    instance = await provider.launch(OFFER, mark(), None)

    folder = tmp_path / "home" / "instances" / str(mark())
    assert instance.workspace == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert instance.status is InstanceStatus.RUNNING
    assert (instance.gpu_ids, instance.gpu_count) == (("GPU-aa11",), 1)
    assert await provider.find(mark()) == instance
    assert await provider.describe(str(mark())) == instance
    assert await provider.instances() == [instance]


async def test_check_counts_the_job_folders_and_those_in_use(provider):
    first = await provider.launch(OFFER, mark(), None)
    assert await provider.check() == "1 job folder kept, 0 in use"
    await provider.launch(OFFER, mark(2), None)

    with JobDirectory(Path(first.workspace))._lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a supervisor does
        assert await provider.check() == "2 job folders kept, 1 in use"


async def test_launching_a_name_again_adopts_and_keeps_what_is_there(provider):
    first = await provider.launch(OFFER, mark(), None)
    (Path(first.workspace) / "train.log").write_text("so far")

    again = await Local(home=provider.home).launch(
        Offer(provider="local", instance_type="CPU", region="local", price_per_hour=0.0),
        mark(),
        None,
    )

    assert again == first
    assert (Path(first.workspace) / "train.log").read_text() == "so far"


async def test_a_launch_cut_short_before_its_record_is_done_again(provider):
    instance = await provider.launch(OFFER, mark(), None)
    for record in ["", '{"id": "run-1"}', "[]"]:
        (Path(instance.workspace) / "instance.json").write_text(record)

        assert await provider.find(mark()) is None
        assert await provider.instances() == []
        assert await provider.launch(OFFER, mark(), None) == instance


async def test_terminate_removes_the_folder_and_is_idempotent(provider):
    instance = await provider.launch(OFFER, mark(), None)
    other = await provider.launch(OFFER, mark(2), None)
    (Path(instance.workspace) / "checkpoints" / "checkpoint-1").mkdir(parents=True)

    await provider.terminate(str(mark()))
    await provider.terminate(str(mark()))
    await provider.terminate("never-was")

    assert [path.name for path in (provider.home / "instances").iterdir()] == [str(mark(2))]
    assert (await provider.describe(str(mark()))).status is InstanceStatus.GONE
    assert await provider.find(mark()) is None
    assert await provider.instances() == [other]


async def test_terminate_does_not_follow_links_out_of_the_folder(provider, tmp_path):
    instance = await provider.launch(OFFER, mark(), None)
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "file").touch()
    (Path(instance.workspace) / "link").symlink_to(tmp_path / "dear")

    await provider.terminate(str(mark()))

    assert (tmp_path / "dear" / "file").exists()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a..b", "x" * 129]
)
async def test_a_name_that_could_leave_the_folder_is_refused(provider, name):
    for call in [provider.describe, provider.terminate]:
        with pytest.raises(ConfigError, match="cannot be the name of an instance"):
            await call(name)


async def test_the_machine_of_an_instance_reads_its_job_directory(provider):
    instance = await provider.launch(OFFER, mark(), None)

    async with provider.machine(instance) as machine:
        await machine.write(f"{instance.workspace}/control.json", b"{}")

    assert (Path(instance.workspace) / "control.json").read_bytes() == b"{}"


def test_the_home_of_a_block_is_the_installations_home_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINING_ORCHESTRATOR_HOME", str(tmp_path / "other"))

    assert asyncio.run(Local().instances()) == []

    assert (tmp_path / "other" / "instances").is_dir()


# Works in a job directory as a supervisor with a trainer does: both hold its lock, the trainer
# leads a group of its own, and a data loader in that group holds nothing.
WORK = """
import os, signal, subprocess, sys, time
from trainer.contract.job_directory import JobDirectory
directory, deaf = JobDirectory(sys.argv[1]), sys.argv[2] == "deaf"
if deaf:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with directory.owned() as lock:
    trainer = os.fork()
    if trainer == 0:
        os.setsid()
        if not deaf:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        subprocess.Popen(["sleep", "600"], close_fds=True)
        signal.pause()
    directory.update_status(pid=os.getpid(), trainer_pid=trainer)
    signal.pause()
"""


@pytest.fixture
def work():
    """Return a function that starts a process in a job directory and waits until it works."""
    started, trainers = [], []

    def start(folder, manner):
        command = [sys.executable, "-c", WORK, folder, manner]
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        started.append(process)
        until_now(lambda: JobDirectory(folder).read_status().trainer_pid)
        trainers.append(JobDirectory(folder).read_status().trainer_pid)
        until_now(lambda: group_size(trainers[-1]) == 2)
        return process

    yield start
    for trainer in trainers:
        with suppress(ProcessLookupError):
            os.killpg(trainer, signal.SIGKILL)
    for process in started:
        process.kill()
        process.wait()


def group_size(group):
    """Return how many living processes a process group has."""
    size = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rsplit(")", 1)[1].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        size += int(number) == group and state != "Z"
    return size


@pytest.mark.parametrize("manner", ["willing", "deaf"])
async def test_terminate_ends_supervisor_trainer_and_data_loader(
    provider, work, monkeypatch, manner
):
    monkeypatch.setattr(occupants, "TERM_SECONDS", 1.0)
    instance = await provider.launch(OFFER, mark(), None)
    process = work(instance.workspace, manner)
    trainer = JobDirectory(instance.workspace).read_status().trainer_pid

    await provider.terminate(str(mark()))

    assert process.wait(timeout=PATIENCE) == (-9 if manner == "deaf" else -15)
    until_now(lambda: group_size(trainer) == 0)
    assert await provider.find(mark()) is None


async def test_a_process_that_only_has_the_same_number_is_left_alone(
    provider, work, monkeypatch, tmp_path
):
    monkeypatch.setattr(occupants, "TERM_SECONDS", 0.5)
    monkeypatch.setattr(occupants, "KILL_SECONDS", 0.5)
    instance = await provider.launch(OFFER, mark(), None)
    directory = JobDirectory(instance.workspace)
    innocent = work(str(tmp_path / "elsewhere"), "willing")
    with directory.owned():
        directory.update_status(pid=innocent.pid, trainer_pid=None)

        with pytest.raises(ProviderError, match="does not end"):
            await provider.terminate(str(mark()))

    assert innocent.poll() is None
    assert await provider.find(mark()) == instance


async def test_nobody_is_signalled_when_the_lock_is_free(provider, work):
    instance = await provider.launch(OFFER, mark(), None)
    process = work(instance.workspace, "willing")
    (Path(instance.workspace) / ".lock").unlink()  # now it holds a lock that nobody can find

    await provider.terminate(str(mark()))

    assert process.poll() is None
