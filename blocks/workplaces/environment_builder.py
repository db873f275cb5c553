"""Build the trainer's environment. This file's text runs on the machine: standard library only.

    python -c TEXT build   {"environment": …, "sites": […], "wheel": …, "probe": […]}
    python -c TEXT install {"environment": …, "requirements": […], "uv": …, "reused": …}

`build` prints one JSON object: what the probe says of the new environment, or the error. A process
that builds or installs holds the lock of the environment; the kernel frees it when it dies.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READY = "ready"  # the file that exists while the environment is complete
PIP = '#!/bin/sh\nexec "$(dirname "$0")/python" -P -m pip "$@"\n'
"""pip of the Python below, run by the environment's own, so that it installs there."""


def build(environment: str, sites: list[str], wheel: str, probe: list[str]) -> dict[str, Any]:
    """Make the environment unless it is there, and return what the probe says of it."""
    folder = Path(environment)
    try:
        with _locked(folder):
            if not (folder / READY).exists():
                _make(folder, sites, wheel)
    finally:
        Path(wheel).unlink(missing_ok=True)
    result = subprocess.run(  # noqa: S603 - our own interpreter and probe
        [str(folder / "bin/python"), *probe], capture_output=True, check=True, text=True, cwd="/"
    )
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def install(environment: str, requirements: list[str], uv: str, *, reused: bool) -> int:
    """Install what is missing and return the exit code of the installer that failed, or 0."""
    folder = Path(environment)
    with _locked(folder):
        (folder / READY).unlink(missing_ok=True)  # an installation that is cut off is built anew
        for command in _installers(folder, uv, reused=reused):
            code = subprocess.run([*command, *requirements], check=False).returncode  # noqa: S603
            if code:
                return code
        (folder / READY).touch()
    return 0


def _make(folder: Path, sites: list[str], wheel: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier attempt left
    # Without pip: that takes seconds, and needs ensurepip, which Debian packages separately.
    venv.EnvBuilder(symlinks=True).create(folder)
    [packages] = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # By addsitedir, and not as plain paths, so that .pth files in those folders are processed too:
    # editable installs rely on them. https://docs.python.org/3/library/site.html
    lines = [f"import site; site.addsitedir({site!r})\n" for site in sites]
    (packages / "reused.pth").write_text("".join(lines))
    # For a job's own `setup` lines: without it, `pip` on PATH would be the image's.
    pip = folder / "bin" / "pip"
    pip.write_text(PIP)
    pip.chmod(0o755)
    (folder / READY).touch()


def _installers(folder: Path, uv: str, *, reused: bool) -> Iterator[list[str]]:
    """Yield the commands to run; the last ends where the requirements begin."""
    python = str(folder / "bin/python")
    with_uv = [uv, "pip", "install", "--python", python]
    with_pip = [python, "-P", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    if uv and not reused:  # uv does not see packages from a .pth, and would fetch torch once more
        # Chooses the build for the driver; the default one may be too new for it:
        # https://docs.astral.sh/uv/guides/integration/pytorch/#automatic-backend-selection
        if shutil.which("nvidia-smi"):
            os.environ.setdefault("UV_TORCH_BACKEND", "auto")
        yield with_uv
    elif _has(python, "pip"):
        yield with_pip
    elif importlib.util.find_spec("ensurepip"):
        yield [python, "-P", "-c", "import ensurepip; ensurepip.bootstrap()"]
        yield with_pip
    elif uv:  # the last resort: it may fetch torch once more, but the job can start
        yield with_uv
    else:
        yield [sys.executable, "-P", "-c", "raise SystemExit('ERROR: there is neither pip nor uv')"]


def _has(python: str, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-P", "-c", code], check=False, cwd="/").returncode == 0  # noqa: S603


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    # Beside the folder, not in it: `_make` removes that.
    with folder.with_name(folder.name + ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def main(verb: str, settings: str) -> int:
    """Carry out one verb and return the exit code."""
    if verb == "install":
        os.environ.update(PYTHONUNBUFFERED="1", PIP_ROOT_USER_ACTION="ignore")
        return install(**json.loads(settings))
    try:
        answer = build(**json.loads(settings))
    except OSError as error:
        answer = {"errno": error.errno, "error": f"{error.filename or 'disk'}: {error.strerror}"}
    print(json.dumps(answer))  # noqa: T201 - this is the answer
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
