"""The Python environment of the trainer on a machine: the image's own packages, and what it lacks.

    {base}/envs/<key>/        a virtual environment; it holds `ready` while it is complete
        site-packages/        the trainer, unpacked, and what had to be installed
        site-packages/reused.pth    the packages of the Python it is made of, where that has torch

With an image that has everything, the first call takes three round trips, and later ones take one.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import json
import shlex
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from packaging.requirements import Requirement

from blocks.machines.base import Machine
from blocks.workplaces import environment_builder
from blocks.workplaces.base import Log
from blocks.workplaces.pythons import (
    FULL,
    PROBE,
    Python,
    PythonsFound,
    lacks_torch,
    survey,
    unwritable,
)
from trainer.contract.errors import DependencyError, DiskFull
from trainer.contract.own_python import own_python

BUILDER = Path(environment_builder.__file__).read_text(encoding="utf-8")
NEWEST = "3.12"  # what uv installs where no Python is suitable
KEY_DIGITS = 12
BUSY_SECONDS = 5.0  # making an environment takes less; after that, another job has the lock
LONGEST_SECONDS = 3600.0  # for which one job waits while another installs

FETCH_PYTHON = r"""
base=$1 version=$2 uv=$3
[ -n "$uv" ] || for python in python3 python; do
    if "$python" -m pip install --quiet --target "$base/tools" uv; then
        uv=$base/tools/bin/uv
        break
    fi
done
[ -n "$uv" ] || { echo "there is no uv, and pip cannot install it"; exit 1; }
UV_PYTHON_INSTALL_DIR="$base/python" UV_PYTHON_INSTALL_BIN=0 "$uv" python install "$version"
"""


async def prepare(
    machine: Machine, base: str, wheel: Path, log: Log, *, also: Sequence[str] = ()
) -> str:
    """Return the Python that the trainer runs with on a machine, after making it ready.

    Calling it again installs nothing. Two jobs that call it at once wait for each other.

    Args:
        machine: where the trainer shall run.
        base: our folder there, absolute.
        wheel: what `flows.setup.wheel` made.
        log: takes lines about the progress.
        also: further requirements of this job, as pip takes them.

    Raises:
        DependencyError: no Python is suitable, or something cannot be installed; it says what.
        DiskFull: there is no room.
    """
    begun = time.monotonic()
    work = _Preparation(machine, base, wheel, log, also)
    python = await work.ready_python() or await work.new_python()
    versions = [f"{name} {version}" for name, version in python.installed.items() if version]
    seconds = time.monotonic() - begun
    log(f"environment ready in {seconds:.1f} s: Python {python.version}, {', '.join(versions)}")
    return python.executable


def wheel_requirements(wheel: Path) -> list[Requirement]:
    """Return what a wheel requires."""
    stem = "-".join(wheel.name.split("-")[:2])
    with zipfile.ZipFile(wheel) as archive:
        info = zipfile.Path(archive, f"{stem}.dist-info/")
        # PathDistribution needs of a path only `/` and read_text, which a zip's path has too.
        found = importlib.metadata.PathDistribution(info).requires or []
    return [Requirement(text) for text in found]


class _Preparation:
    """One call of `prepare`."""

    def __init__(
        self, machine: Machine, base: str, wheel: Path, log: Log, also: Sequence[str]
    ) -> None:
        self.machine = machine
        self.base = base
        self.wheel = wheel
        self.log = log
        # Other requirements make another environment: nothing is ever installed into one in which
        # another job may be running.
        self.key = _key(" ".join([wheel.name, *also]))
        self.requirements = [*wheel_requirements(wheel), *map(Requirement, also)]
        self.found = PythonsFound()

    async def ready_python(self) -> Python | None:
        """Return the Python of an environment that lacks nothing, in one round trip."""
        self.found = await self._look(every=False)
        return next((p for p in self.found.ready if not p.missing(self.requirements)), None)

    async def new_python(self) -> Python:
        """Make an environment of the best Python there is, and install what it lacks."""
        # One is there and lacks something. The quick look stopped at it; another may fit better.
        if self.found.ready:
            self.found = await self._look(every=True)
        best = self.found.best() or await self._fetch_python()
        # Reuse nothing next to a torch of our own: packages that were compiled for the image's
        # torch, such as flash-attn, would be imported with it, and crash.
        reused = not lacks_torch(best.missing(self.requirements))
        environment = f"{self.base}/envs/{self.key}-{_key(f'{best.executable} {reused}')}"
        python = await self._build(best, environment, best.sites if reused else [])
        if missing := python.missing(self.requirements):
            await self._install(environment, missing, reused=reused)
            python = await self._look_again(missing)
        return python

    async def _look(self, *, every: bool) -> PythonsFound:
        return await survey(self.machine, self.base, self.key, self.requirements, every=every)

    async def _look_again(self, missing: Sequence[Requirement]) -> Python:
        python = await self.ready_python()
        if python is None:
            raise DependencyError(
                f"{_names(missing)} cannot be found on the machine after being installed.",
                f"Remove {self.base}/envs there and run the job again.",
            )
        return python

    async def _fetch_python(self) -> Python:
        versions = sorted({python.version for python in self.found.pythons})
        has = f"has Python {', '.join(versions)}" if versions else "has no Python"
        self.log(f"the machine {has}; fetching Python {NEWEST} with uv")
        # By pip where uv is missing: an old Python that cannot run the trainer can still do that.
        lines = _Lines(self.log)
        script = shlex.join(["sh", "-c", FETCH_PYTHON, "sh", self.base, NEWEST, self.found.uv])
        try:
            await self.machine.run_shell([script], cwd=self.base, log=lines)
        except DependencyError as error:
            raise DependencyError(
                f"The trainer needs Python 3.11 or newer, the machine {has}, and uv could not "
                f"fetch one: {lines.cause()}.",
                "Choose an image with Python 3.11 or newer, or install uv on the machine.",
            ) from error
        self.found = await self._look(every=True)
        if best := self.found.best():
            return best
        raise DependencyError(
            f"The machine {has}, and the Python that uv fetched does not run.",
            "Choose an image with Python 3.11 or newer.",
        )

    async def _build(self, best: Python, environment: str, sites: Sequence[str]) -> Python:
        """Make the environment unless it is there, and return its Python."""
        # A name of its own for each upload: two jobs may send the same wheel at once, and the
        # builder removes its copy.
        copy = f"{self.base}/wheels/{uuid4().hex}.whl"
        await self.machine.upload(self.wheel, copy)
        settings = {
            "environment": environment,
            "sites": list(sites),
            "wheel": copy,
            "probe": ["-P", "-c", PROBE, *(wanted.name for wanted in self.requirements)],
        }
        words = ("-c", BUILDER, "build", json.dumps(settings))
        command = own_python(*words, python=best.executable)
        loop = asyncio.get_running_loop()
        word = loop.call_later(
            BUSY_SECONDS, self.log, "waiting for another job that installs on this machine"
        )
        try:
            result = await self.machine.run(command, cwd="/", timeout=LONGEST_SECONDS)
        except TimeoutError as error:
            raise DependencyError(
                f"Another job has been installing in {environment} on the machine for "
                f"{LONGEST_SECONDS / 60:g} minutes.",
                "Find out what that job waits for, and run this one again when it has ended.",
            ) from error
        finally:
            word.cancel()
        if result.exit_code:
            last = result.stderr.strip().rpartition("\n")[2]
            raise DependencyError(
                f"{best.executable} on the machine cannot make a virtual environment: {last}.",
                "Choose another image, or install Python 3.11 or newer with its venv module.",
            )
        answer = json.loads(result.stdout.splitlines()[-1])
        if "error" in answer:
            raise unwritable(environment, answer["error"])
        return Python(**answer)

    async def _install(
        self, environment: str, missing: Sequence[Requirement], *, reused: bool
    ) -> None:
        self.log(f"installing {_names(missing)}")
        settings = {
            "environment": environment,
            "requirements": [str(wanted) for wanted in missing],
            "uv": self.found.uv,
            "reused": reused,
        }
        python = f"{environment}/bin/python"
        words = ("-c", BUILDER, "install", json.dumps(settings))
        script = shlex.join(own_python(*words, python=python))
        lines = _Lines(self.log)
        try:
            await self.machine.run_shell([script], cwd=self.base, log=lines)
        except DependencyError as error:
            if lines.full:
                raise DiskFull(
                    f"The machine's disk is full: {_names(missing)} did not fit: {lines.cause()}.",
                    "Raise resources.disk_gb, or choose an image that has them.",
                ) from error
            raise DependencyError(
                f"{_names(missing)} cannot be installed on the machine: {lines.cause()}.",
                "Check that it reaches a package index, or choose an image that has them.",
            ) from error


class _Lines:
    """Passes lines on, and remembers those that explain a failure."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._last = self._error = ""
        self.full = False
        """Whether a line reported a full disk."""

    def __call__(self, line: str) -> None:
        self._log(line)
        # pip and uv usually begin the line that matters with "error", and print hints after it.
        self._last = line.strip() or self._last
        if line.lower().startswith("error"):
            self._error = line.strip()
        self.full = self.full or FULL in line

    def cause(self) -> str:
        """Return the line that names the failure, without its full stop."""
        return (self._error or self._last or "it printed nothing").rstrip(".")


def _names(requirements: Sequence[Requirement]) -> str:
    return ", ".join(str(wanted) for wanted in requirements)


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_DIGITS]
