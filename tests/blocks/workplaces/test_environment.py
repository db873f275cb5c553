"""The trainer's environment on a machine, made by real interpreters, pip and uv."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from blocks.machines.local import LocalMachine
from blocks.workplaces import environment as environment_module
from blocks.workplaces.environment import prepare
from flows.setup.wheel import trainer_wheel
from tests.clouds.machines import Profile
from tests.flows.sshd import over_ssh
from trainer.contract.errors import DependencyError, DiskFull

BIN = str(Path(sys.executable).parent)
SYSTEM = "/usr/local/bin:/usr/bin:/bin"
TOOLS = ("bash", "cat", "dirname", "env", "ln", "mkdir", "readlink", "rm", "sh")


class Counting(LocalMachine):
    """Notes what it is asked for."""

    def __init__(self):
        self.verbs = []

    async def run(self, *args, **kwargs):
        self.verbs.append("run")
        return await super().run(*args, **kwargs)

    async def run_shell(self, *args, **kwargs):
        self.verbs.append("run_shell")
        return await super().run_shell(*args, **kwargs)

    async def upload(self, *args, **kwargs):
        self.verbs.append("upload")
        return await super().upload(*args, **kwargs)


@pytest.fixture(autouse=True)
def warm_machine(tmp_path, monkeypatch):
    """Make this computer look like a warm image: our Python on PATH, no package index."""
    nowhere = "http://127.0.0.1:9/simple"
    for name in ("CONDA_PREFIX", "VIRTUAL_ENV", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "PATH": f"{BIN}:{SYSTEM}",
        "HOME": str(tmp_path),
        "PIP_INDEX_URL": nowhere,
        "PIP_RETRIES": "0",
        "UV_INDEX_URL": nowhere,
        "UV_HTTP_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def base(tmp_path):
    return str(tmp_path / "machine" / ".training-orchestrator")


@pytest.fixture
def package_index(tmp_path, monkeypatch):
    """Put packages of one line each where pip and uv look; gives a function that adds one."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_NO_INDEX", "UV_OFFLINE"):
        monkeypatch.setenv(name, "1")
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS"):
        monkeypatch.setenv(name, str(folder))

    def add(name, version):
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            archive.writestr(f"{name}/__init__.py", "")
            archive.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            )
            archive.writestr(
                f"{info}/WHEEL",
                "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            )
            archive.writestr(f"{info}/RECORD", f"{name}/__init__.py,,\n{info}/RECORD,,\n")

    return add


def wheel_that_requires(monkeypatch, folder, *requirements):
    monkeypatch.setattr("flows.setup.wheel.trainer_requirements", lambda: list(requirements))
    return trainer_wheel(folder)


def machine_with(monkeypatch, tmp_path, **programs):
    """Let PATH hold a few tools and these programs alone, each a path or a script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    for name, program in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{program}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def answer(python, *arguments):
    result = subprocess.run([python, *arguments], capture_output=True, text=True, cwd="/")
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def change_times(folder):
    return {str(path): path.lstat().st_mtime_ns for path in Path(folder).rglob("*")}


async def test_a_warm_image_is_ready_without_installing_anything(tmp_path, base):
    log = []

    python = await prepare(LocalMachine(), base, trainer_wheel(tmp_path), log.append)

    code = (
        "import importlib.util as u, trainer; print(trainer.__file__, u.find_spec('torch').origin)"
    )
    ours, torch = answer(python, "-c", code).split()
    assert Path(python).is_relative_to(f"{base}/envs")
    assert Path(ours).is_relative_to(f"{base}/envs")
    assert not Path(torch).is_relative_to(base)
    assert [line for line in log if not line.startswith("environment ready in ")] == []
    assert "job directory" in answer(python, "-m", "trainer", "--help")


async def test_the_second_call_is_one_look_and_changes_nothing(tmp_path, base):
    wheel = trainer_wheel(tmp_path)
    first = await prepare(LocalMachine(), base, wheel, print)
    before = change_times(base)

    machine = Counting()
    second = await prepare(machine, base, wheel, print)

    assert second == first
    assert machine.verbs == ["run"]
    assert change_times(base) == before


async def test_two_that_prepare_at_once_make_one_environment(tmp_path, base):
    wheel = trainer_wheel(tmp_path)

    pythons = await asyncio.gather(*(prepare(LocalMachine(), base, wheel, print) for _ in range(2)))

    assert pythons[0] == pythons[1]
    made = [Path(path) for path in change_times(base)]
    assert len([path for path in made if path.name == "ready"]) == 1
    assert [path for path in made if path.suffix == ".whl"] == []
    assert answer(pythons[0], "-c", "import trainer.config") == ""


async def test_who_waits_for_another_job_says_so_and_not_for_ever(tmp_path, base, monkeypatch):
    wheel = trainer_wheel(tmp_path)
    environment = Path(await prepare(LocalMachine(), base, wheel, print)).parents[1]
    (environment / "ready").unlink()
    monkeypatch.setattr(environment_module, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(environment_module, "LONGEST_SECONDS", 1.0)
    log = []

    with environment.with_name(f"{environment.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DependencyError, match="Another job has been installing in"):
            await prepare(LocalMachine(), base, wheel, log.append)

    assert "waiting for another job that installs on this machine" in log


async def test_an_environment_torn_by_a_crash_is_built_anew(tmp_path, base):
    wheel = trainer_wheel(tmp_path)
    python = await prepare(LocalMachine(), base, wheel, print)
    environment = Path(python).parents[1]
    (environment / "ready").unlink()
    [module] = environment.glob("lib/*/site-packages/trainer/config/job.py")
    module.write_text("torn")

    again = await prepare(LocalMachine(), base, wheel, print)

    assert again == python
    assert answer(python, "-c", "import trainer.config") == ""


@pytest.mark.thorough
async def test_what_the_image_lacks_is_installed_beside_it_and_serves_later_trainers(
    tmp_path, base, package_index, monkeypatch
):
    package_index("tinypackage", "1.0")
    old = wheel_that_requires(monkeypatch, tmp_path, "torch>=2", "tinypackage==1.0")
    new = wheel_that_requires(monkeypatch, tmp_path, "torch>=2", "tinypackage>=1")
    log = []

    python = await prepare(LocalMachine(), base, old, log.append)
    later = await prepare(machine := Counting(), base, new, print)

    code = "import tinypackage, trainer.config; print(tinypackage.__file__)"
    assert Path(answer(python, "-c", code)).is_relative_to(Path(python).parents[1])
    assert answer(later, "-c", code) == answer(python, "-c", code)
    assert later != python
    assert log[0] == "installing tinypackage==1.0"
    assert any(line.startswith("Successfully installed") for line in log)
    assert machine.verbs == ["run", "upload", "run"]


@pytest.mark.thorough
async def test_what_one_job_needs_besides_stays_out_of_the_environment_of_others(
    tmp_path, base, package_index, monkeypatch
):
    package_index("tinypackage", "1.0")
    wheel = wheel_that_requires(monkeypatch, tmp_path, "torch>=2")
    python = await prepare(LocalMachine(), base, wheel, print)
    log = []

    again = await prepare(LocalMachine(), base, wheel, log.append, also=["tinypackage==1.0"])

    code = "import importlib.util as u; print(u.find_spec('tinypackage') is not None)"
    assert log[0] == "installing tinypackage==1.0"
    assert (answer(python, "-c", code), answer(again, "-c", code)) == ("False", "True")


async def test_with_another_torch_than_ours_the_image_is_not_reused(
    tmp_path, base, package_index, monkeypatch
):
    package_index("torch", "99.0")
    wheel = wheel_that_requires(monkeypatch, tmp_path, "torch>=99")

    python = await prepare(LocalMachine(), base, wheel, print)

    code = "import importlib.util as u, torch; print(torch.__file__, u.find_spec('transformers'))"
    place, transformers = answer(python, "-c", code).split()
    assert Path(place).is_relative_to(base)
    assert transformers == "None"


async def test_without_a_network_the_missing_requirement_is_named(tmp_path, base, monkeypatch):
    wheel = wheel_that_requires(monkeypatch, tmp_path, "torch>=2", "no-such-package==4.2")

    with pytest.raises(DependencyError) as failure:
        await prepare(LocalMachine(), base, wheel, print)

    assert failure.value.message == (
        "no-such-package==4.2 cannot be installed on the machine: "
        "ERROR: No matching distribution found for no-such-package==4.2."
    )
    assert "package index" in failure.value.suggestion


async def test_a_machine_without_python_is_refused_with_the_remedy(tmp_path, base, monkeypatch):
    machine_with(monkeypatch, tmp_path)

    with pytest.raises(DependencyError, match="has no Python, and uv could not fetch") as failure:
        await prepare(LocalMachine(), base, trainer_wheel(tmp_path), print)

    assert "install uv" in failure.value.suggestion


async def test_too_old_a_python_is_refused_with_its_version(tmp_path, base, monkeypatch):
    facts = '{"executable": "/x", "version": "3.9.18", "platform": "linux", "usable": true, '
    facts += '"sites": [], "installed": {}}'
    machine_with(monkeypatch, tmp_path, python3=f"[ $1 = -c ] && echo '{facts}'")

    with pytest.raises(DependencyError, match=r"has Python 3\.9\.18.*pip cannot install it\."):
        await prepare(LocalMachine(), base, trainer_wheel(tmp_path), print)


async def test_uv_fetches_a_python_where_there_is_none(tmp_path, base, monkeypatch):
    # What uv would download is linked from here.
    uv = f'd="$UV_PYTHON_INSTALL_DIR/cpython-$3/bin"; mkdir -p "$d"; ln -s {sys.executable} "$d/python3"'
    machine_with(monkeypatch, tmp_path, uv=uv)
    wheel = wheel_that_requires(monkeypatch, tmp_path)

    python = await prepare(LocalMachine(), base, wheel, print)

    assert answer(python, "-c", "import trainer.contract.errors") == ""


async def test_a_base_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(DependencyError, match=r"cannot be written: .*Not a directory"):
        await prepare(LocalMachine(), str(tmp_path / "file/base"), trainer_wheel(tmp_path), print)


@pytest.fixture
def small_disk(tmp_path):
    """Yield a folder on a disk that takes the wheel, and not what is in it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = trainer_wheel(tmp_path).stat().st_size + (40 << 10)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


async def test_a_full_disk_is_told_as_such(tmp_path, small_disk):
    with pytest.raises(DiskFull, match="disk is full"):
        await prepare(LocalMachine(), str(small_disk / "base"), trainer_wheel(tmp_path), print)


async def test_over_ssh_a_warm_image_is_ready_and_stays_so(tmp_path):
    wheel, log = trainer_wheel(tmp_path), []
    async with over_ssh(tmp_path) as (machine, base):
        python = await prepare(machine, base, wheel, log.append)
        before = change_times(base)
        again = await prepare(machine, base, wheel, log.append)
        assert change_times(base) == before
        result = await machine.run([python, "-m", "trainer", "--help"], cwd="/")

    assert again == python
    assert result.exit_code == 0, result.stderr
    assert all(line.startswith("environment ready in ") for line in log)


@pytest.mark.thorough
async def test_over_ssh_two_jobs_prepare_at_once(tmp_path):
    wheel = trainer_wheel(tmp_path)
    async with over_ssh(tmp_path) as (machine, base):
        pythons = await asyncio.gather(*(prepare(machine, base, wheel, print) for _ in range(2)))
        result = await machine.run([pythons[0], "-c", "import trainer.config"], cwd="/")

    assert pythons[0] == pythons[1]
    assert result.exit_code == 0, result.stderr


@pytest.mark.thorough
async def test_over_ssh_a_missing_requirement_is_named(tmp_path, monkeypatch):
    wheel = wheel_that_requires(monkeypatch, tmp_path, "torch>=2", "no-such-package==4.2")
    profile = Profile(environment={"PIP_NO_INDEX": "1"})
    async with over_ssh(tmp_path, profile) as (machine, base):
        with pytest.raises(DependencyError, match=r"^no-such-package==4\.2 cannot be installed"):
            await prepare(machine, base, wheel, print)


async def test_over_ssh_a_machine_without_python_is_refused(tmp_path, monkeypatch):
    machine_with(monkeypatch, tmp_path)
    profile = Profile(environment={"PATH": os.environ["PATH"]})
    async with over_ssh(tmp_path, profile) as (machine, base):
        with pytest.raises(
            DependencyError, match=r"3\.11 or newer, the machine has no Python, and uv"
        ):
            await prepare(machine, base, trainer_wheel(tmp_path), print)
