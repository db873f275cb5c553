"""Which Pythons a machine has, what is installed in them, and which one serves best."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

from blocks.machines.base import Machine
from blocks.machines.shell import all_of, last_of, marked, run_script
from trainer.contract.errors import DependencyError, DiskFull, OrchestratorError

OLDEST = Version("3.11")
LOOK_SECONDS = 120.0  # for all Pythons of a machine to answer, even from a slow disk
LOOK = Path(__file__).with_name("pythons.sh").read_text(encoding="utf-8")
UNWRITABLE = 3  # exit code of LOOK
FULL = "No space left on device"

# Valid in Python 2 too, which must be able to report that it is too old. `usable` looks for venv,
# which distributions may leave out.
PROBE = """
import json, os, sys
try:
    from importlib.metadata import version
    from importlib.util import find_spec
except ImportError:
    version = find_spec = None
def installed(name):
    try:
        return version(name)
    except Exception:
        return None
print(json.dumps({
    "executable": sys.executable,
    "version": "%d.%d.%d" % tuple(sys.version_info[:3]),
    "platform": sys.platform,
    "usable": find_spec is not None and find_spec("venv") is not None,
    "sites": [p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")],
    "installed": {name: installed(name) for name in sys.argv[1:]},
}))
"""


@dataclass(frozen=True, kw_only=True)
class Python:
    """An interpreter on the machine."""

    executable: str
    version: str
    platform: str
    usable: bool
    """Whether an environment can be made with it."""
    sites: Sequence[str]
    """The folders of its packages."""
    installed: Mapping[str, str | None]
    """The versions of the packages asked for; None: it is not there."""

    def missing(self, requirements: Sequence[Requirement]) -> list[Requirement]:
        """Return what is not installed, or not in a version that is asked for."""
        return [wanted for wanted in requirements if not self._satisfies(wanted)]

    def _satisfies(self, wanted: Requirement) -> bool:
        # Markers are evaluated with the machine's facts, not with those of this interpreter.
        facts = {
            "python_version": ".".join(self.version.split(".")[:2]),
            "python_full_version": self.version,
            "sys_platform": self.platform,
        }
        if wanted.marker and not wanted.marker.evaluate(facts):
            return True
        try:
            version = Version(self.installed.get(wanted.name) or "nothing")
        except InvalidVersion:
            return False
        # Images ship builds such as 2.9.0a0+git, which a specifier excludes by default.
        return wanted.specifier.contains(version, prereleases=True)


@dataclass(frozen=True, kw_only=True)
class PythonsFound:
    """What was found on a machine."""

    ready: Sequence[Python] = ()
    """Environments made for this very wheel."""
    pythons: Sequence[Python] = ()
    """Interpreters to make one with, in the order in which they were looked for."""
    uv: str = ""
    """Where uv is; empty when it was not found."""
    requirements: Sequence[Requirement] = ()

    def best(self) -> Python | None:
        """Return the Python that has most of what is required, torch before all else."""
        # torch alone is gigabytes to download; everything else together takes seconds. `min` takes
        # the first of equals, and so the order in which they were looked for.
        fit = [p for p in self.pythons if p.usable and Version(p.version) >= OLDEST]
        return min(fit, key=self._lacks, default=None)

    def _lacks(self, python: Python) -> tuple[bool, int]:
        missing = python.missing(self.requirements)
        return lacks_torch(missing), len(missing)


def lacks_torch(missing: Sequence[Requirement]) -> bool:
    """Whether torch is among what is missing."""
    return any(wanted.name == "torch" for wanted in missing)


async def survey(
    machine: Machine, base: str, key: str, requirements: Sequence[Requirement], *, every: bool
) -> PythonsFound:
    """Look at the Pythons of a machine, in one round trip.

    Args:
        machine: where to look.
        base: our folder there; it is made when it is not there.
        key: how the names of the environments of this wheel begin.
        requirements: what to look for in each Python.
        every: look at all of them even when such an environment is ready.

    Raises:
        DependencyError: `base` cannot be written, or a Python there does not answer.
        DiskFull: there is no room for an empty folder.
    """
    names = [wanted.name for wanted in requirements]
    settings = (base, key, "yes" if every else "", PROBE)
    try:
        result = await run_script(machine, LOOK, *settings, *names, timeout=LOOK_SECONDS)
    except TimeoutError as error:
        raise DependencyError(
            f"A Python on the machine did not answer within {LOOK_SECONDS:g} s.",
            "Check its disk, or choose another machine.",
        ) from error
    if result.exit_code == UNWRITABLE:
        raise unwritable(base, result.stderr.strip().rpartition("\n")[2])
    return _read(result.stdout, f"{base}/envs/{key}-", requirements)


def unwritable(place: str, reason: str) -> OrchestratorError:
    """Return the error of a machine whose disk takes no files, from what its tools said."""
    if FULL in reason:
        return DiskFull(
            f"The machine's disk is full: {reason}.", "Free some there, or raise resources.disk_gb."
        )
    return DependencyError(
        f"{place} on the machine cannot be written: {reason}.",
        "Log in as a user whose home folder can be written.",
    )


def _read(output: str, environments: str, requirements: Sequence[Requirement]) -> PythonsFound:
    """Return what `LOOK` printed; programs that are only called python are skipped."""
    lines = marked(output)
    found: list[Python] = []
    for facts in all_of(lines, "python"):
        with suppress(ValueError, TypeError):
            found.append(Python(**json.loads(facts)))
    return PythonsFound(
        ready=[python for python in found if python.executable.startswith(environments)],
        pythons=[python for python in found if not python.executable.startswith(environments)],
        uv=last_of(lines, "uv"),
        requirements=requirements,
    )
