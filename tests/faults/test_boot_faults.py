"""A machine comes late, not at all, or is not what was ordered: the next offer serves."""

from __future__ import annotations

import asyncio
import math
import re
import subprocess
import venv
from contextlib import suppress
from pathlib import Path

import asyncssh
import pytest

from blocks.home import home, private_folder
from blocks.machines.ssh import SshMachine
from blocks.providers.lambda_cloud import LambdaCloud
from blocks.providers.vast import VastAI
from blocks.registry import load_provider
from blocks.workplaces.base import Needed
from flows.setup.wheel import trainer_wheel
from tests.clouds.machines import Profile
from trainer.contract.errors import CapacityError, DependencyError, HostKeyChanged
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobState

GPU = {"gpu_count": 1}
NOWHERE = "http://127.0.0.1:9/simple"
NO_INDEX = {"PIP_INDEX_URL": NOWHERE, "PIP_RETRIES": "0", "UV_INDEX_URL": NOWHERE}
OLD = '{"executable": "/x", "version": "3.9.18", "platform": "linux", "usable": true, "sites": [], "installed": {}}'


@pytest.fixture(autouse=True)
def quick(scene, monkeypatch):
    """Scale down the seconds between two calls, and those for which SSH is tried at one go."""
    monkeypatch.setattr(VastAI, "intervals", {})
    monkeypatch.setattr(LambdaCloud, "intervals", {}, raising=False)
    monkeypatch.setitem(SshMachine.__init__.__kwdefaults__, "patience", 1.5)
    if hasattr(scene.cloud, "rates"):
        scene.cloud.rates.factor = 0.0


def as_rented(scene, *changes):
    """Do something to each machine when it is ordered, the first change to the first one."""
    rent, waiting = scene.cloud.rent, iter(changes)

    def changed(rented):
        next(waiting, lambda _: None)(rented)
        return rent(rented)

    scene.cloud.rent = changed


def switched(scene, name, *values):
    """Give a switch of the cloud another value for each machine that is ordered."""
    as_rented(
        scene, *(lambda _, value=value: setattr(scene.cloud, name, value) for value in values)
    )


def charged(hunt):
    """Whether the first machine was charged to the job for as long as it was there, or longer."""
    _, _, seconds, cost = hunt.scene.cloud.billing()[0]
    first, second = hunt.journal.hires[0], hunt.journal.hires[0].price_per_hour / 3600
    return first.cost() >= cost - 2 * second and seconds - 2 <= first.seconds() <= seconds + 20


@pytest.mark.thorough
@pytest.mark.fault(13, "never boots, boots late")
@pytest.mark.parametrize(
    ("scene", "switch", "trouble"),
    [
        ("runpod", "never_boot", True),
        pytest.param("lambda", "never_boot", True, marks=pytest.mark.thorough),
        pytest.param("vast", "never_boot", True, marks=pytest.mark.thorough),
        pytest.param("runpod", "boot_seconds", 20.0, marks=pytest.mark.thorough),
    ],
    indirect=["scene"],
)
async def test_a_machine_that_does_not_boot_in_time_is_given_back_and_charged(
    scene, hunt, switch, trouble
):
    switched(scene, switch, trouble, type(trouble)(0.2) if switch == "boot_seconds" else False)
    hunt.wants(limits={"boot_timeout_minutes": 0.05})

    instance = await hunt.machine()

    first, _ = hunt.outcomes()
    assert first.startswith("BootError: ")
    assert "was not running after 0.05 minutes" in first
    assert scene.cloud.alive() == [instance.id]
    assert 3 <= hunt.journal.hires[0].seconds() < 3 + 20
    assert charged(hunt)
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(14, "sshd late or never")
async def test_an_sshd_that_refuses_for_a_while_is_waited_for(scene, hunt):
    scene.cloud.sshd_delay = 4.0

    await hunt.machine()

    assert hunt.outcomes() == ["in use"]
    assert hunt.seconds > 4
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(14, "sshd late or never")
@pytest.mark.parametrize(
    ("switch", "trouble", "words"),
    [("sshd_never", True, "connection refused"), ("crash_loop", True, ": ")],
)
async def test_a_machine_that_ssh_never_reaches_is_given_back(scene, hunt, switch, trouble, words):
    switched(scene, switch, trouble, False)
    hunt.wants(limits={"boot_timeout_minutes": 0.05})

    with suppress(CapacityError):  # a machine that falls and rises may be met while it is up
        await hunt.machine()

    first = hunt.outcomes()[0]
    if switch == "sshd_never":
        assert first.startswith("BootError: ")
        assert "runs, but was not reached within 0.05 minutes: 127.0.0.1:" in first
        assert words in first
        assert charged(hunt)
    assert len(scene.cloud.alive()) <= 1
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(15, "wrong key, key arrives late")
@pytest.mark.parametrize("scene", ["runpod", "lambda", "vast"], indirect=True)
async def test_a_key_that_arrives_late_is_waited_for(scene, hunt):
    scene.cloud.bad_key = 3.0

    await hunt.machine()

    assert hunt.outcomes() == ["in use"]
    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(15, "wrong key, key arrives late")
async def test_a_machine_that_never_takes_the_key_is_given_back(scene, hunt):
    switched(scene, "bad_key", math.inf, None)
    hunt.wants(limits={"boot_timeout_minutes": 0.05})

    await hunt.machine()

    assert hunt.outcomes()[0].startswith("BootError: ")
    assert "permission denied for user" in hunt.outcomes()[0]
    await hunt.over()


def another_host_at(machine):
    """Let another host answer on the port of a machine."""
    machine.stop()
    path = machine.home.parent / "host_key"
    path.unlink()
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(path)
    path.chmod(0o600)
    machine.start()


@pytest.mark.fault(16, "host key changes")
async def test_another_host_key_is_refused_and_another_machine_hired(scene, hunt):
    instance = await hunt.machine()
    await asyncio.to_thread(another_host_at, scene.machine())
    provider = await load_provider("runpod")
    with pytest.raises(HostKeyChanged, match=r"as pinned in .*host"):
        async with provider.machine(instance) as machine:
            await machine.run(["touch", "here"])

    again = await hunt.machine()

    assert hunt.outcomes()[0].startswith("HostKeyChanged: ")
    assert scene.cloud.alive() == [again.id]
    assert not list(scene.cloud.made[0].home.rglob("here"))
    await hunt.over()


SMI = {
    "no GPU": ((), "shows no GPU: there is no nvidia-smi"),
    "wrong GPU": (("Tesla T4, 15360",), "has the wrong GPU: Tesla T4"),
    "fell off the bus": (
        ("NVIDIA L4, [GPU requires reset]",),
        "has 0 GPUs that work, 1 were hired",
    ),
}


@pytest.mark.thorough
@pytest.mark.fault(17, "no GPU, wrong, unusable")
@pytest.mark.parametrize(
    "trouble",
    ["wrong GPU", *(pytest.param(n, marks=pytest.mark.thorough) for n in SMI if n != "wrong GPU")],
)
async def test_a_machine_without_the_gpu_is_given_back_and_its_host_remembered(
    scene, hunt, trouble
):
    gpus, words = SMI[trouble]
    as_rented(scene, lambda rented: setattr(rented, "profile", Profile(gpus=gpus)))
    hunt.wants(resources=GPU)

    await hunt.machine()

    first, second = hunt.journal.hires
    assert first.cause.startswith("BootError: ")
    assert words in first.cause
    assert [*(read_json(home() / "bad-hosts.json") or {})] == [f"runpod {first.host}"]
    assert second.host != first.host
    await hunt.over()


@pytest.fixture
def disk(scene):
    """Return a function that gives the next machine a disk of its own; it is taken away again."""
    mounted: list[Path] = []

    def give(options: str, *, filled: bool = False):
        def mount(rented):
            folder = scene.cloud.folder / rented.id / "home"
            folder.mkdir(parents=True)
            command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
            subprocess.run(command, check=True, capture_output=True)
            mounted.append(folder)
            if filled:
                with suppress(OSError), (folder / "full").open("wb", buffering=0) as stream:
                    while True:
                        stream.write(bytes(4096))
            remount = ["mount", "-o", f"remount,{options}", str(folder)]
            subprocess.run(remount, check=True, capture_output=True)

        as_rented(scene, mount)

    yield give
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def may_mount(folder: Path) -> bool:
    made = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True)
    return made.returncode == 0 and subprocess.run(["umount", str(folder)]).returncode == 0


@pytest.mark.thorough
@pytest.mark.fault(18, "disk small, read-only, full")
@pytest.mark.parametrize(
    ("options", "filled", "words"),
    [
        ("size=64m", False, r"disk is too small: 20 GiB were asked for, 0\.1 GiB are free in /"),
        ("ro", False, r"cannot be written: .*Read-only file system"),
        ("size=1m", True, r"cannot be written: .*No space left on device"),
    ],
    ids=["small", "read-only", "full"],
)
async def test_a_bad_disk_is_refused_before_anything_is_installed(
    scene, hunt, disk, tmp_path, options, filled, words
):
    (tmp_path / "trial").mkdir()
    if not may_mount(tmp_path / "trial"):
        pytest.skip("mounting a tmpfs is not allowed here")
    disk(options, filled=filled)
    asked = {"disk_gb": 20} if options == "size=64m" else {}
    hunt.wants(resources={"gpu_count": 0, **asked})

    await hunt.machine()

    assert hunt.outcomes()[0].startswith("BootError: ")
    assert re.search(words, hunt.outcomes()[0])
    await hunt.over()


def path_with(folder, **programs):
    """Return a PATH with everything of this computer but its Pythons, and these scripts."""
    folder.mkdir()
    for name in ("/usr/bin", "/bin", "/usr/sbin"):
        for program in Path(name).iterdir():
            if "py" not in program.name and program.name != "uv":
                with suppress(FileExistsError):
                    (folder / program.name).symlink_to(program)
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return {"PATH": str(folder)}


PYTHONS = {
    "none": ({}, "the machine has no Python, and uv could not fetch one: "),
    "too old": ({"python3": f"[ \"$1\" = -c ] && echo '{OLD}'"}, "has Python 3.9.18, and uv"),
    "broken": ({"python3": "echo Killed >&2; exit 137"}, "the machine has no Python, and uv"),
}


@pytest.mark.thorough
@pytest.mark.fault(19, "nothing can be installed")
@pytest.mark.parametrize("python", PYTHONS)
async def test_a_machine_without_a_python_that_serves_is_refused(scene, hunt, tmp_path, python):
    programs, words = PYTHONS[python]
    environment = {**NO_INDEX, **path_with(tmp_path / "path", **programs)}
    scene.cloud.profile = Profile(python=False, environment=environment)
    instance = await hunt.machine()
    wheel = trainer_wheel(private_folder(home() / "wheels"))
    provider = await load_provider("runpod")

    async with provider.workplace(instance) as workplace:
        needed = Needed(training=hunt.job.training, wheel=lambda: wheel)
        installing = workplace.install(needed, print)
        with pytest.raises(DependencyError, match=words):
            await asyncio.wait_for(installing, 60)

    await hunt.over()


@pytest.mark.thorough
@pytest.mark.fault(19, "nothing can be installed")
async def test_a_run_ends_with_the_line_of_pip_that_failed_and_the_machine_is_given_back(
    scene, survived, tmp_path
):
    bare = tmp_path / "python"
    await asyncio.to_thread(venv.create, bare, with_pip=True)
    environment = {**NO_INDEX, **path_with(tmp_path / "path")}
    environment["PATH"] = f"{bare}/bin:{environment['PATH']}"
    scene.cloud.profile = Profile(python=False, environment=environment)

    run = await scene.run(scene.job())
    scene.injected(run)

    await survived(run, JobState.FAILED, r"^DependencyError: .*cannot be installed.*: ERROR: .*")
    assert len(scene.cloud.account) == 1
