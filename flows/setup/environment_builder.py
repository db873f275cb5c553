"""Build the trainer's environment. This file's text runs on the machine: standard library only.

    python -c TEXT build   {"environment": …, "sites": […], "wheel": …, "probe": […]}
    python -c TEXT install {"environment": …, "requirements": […], "uv": …, "reused": …}

`build` prints one JSON object: what the probe says of the new environment, or the error. Whoever
builds or installs holds the lock of the environment, which ends with its process.
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

READY = "ready"  # the file that is there while the environment is whole
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
    """Install what is missing and return the exit code of whoever failed, or 0."""
    folder = Path(environment)
    with _locked(folder):
        (folder / READY).unlink(missing_ok=True)  # what is torn here is built anew
        for command in _installers(folder, uv, reused=reused):
            code = subprocess.run([*command, *requirements], check=False).returncode  # noqa: S603
            if code:
                return code
        (folder / READY).touch()
    return 0


def _make(folder: Path, sites: list[str], wheel: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what an earlier attempt left
    venv.EnvBuilder(symlinks=True).create(folder)
    [packages] = folder.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # By addsitedir, so that .pth files in there count: an image may be made of them.
    lines = [f"import site; site.addsitedir({site!r})\n" for site in sites]
    (packages / "reused.pth").write_text("".join(lines))
    pip = folder / "bin" / "pip"
    pip.write_text(PIP)
    pip.chmod(0o755)
    (folder / READY).touch()


def _installers(folder: Path, uv: str, *, reused: bool) -> Iterator[list[str]]:
    """Yield the commands to run; the last ends where the requirements begin."""
    python = str(folder / "bin/python")
    with_uv = [uv, "pip", "install", "--python", python]
    with_pip = [python, "-P", "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    if uv and not reused:  # uv does not see what is reused, and would fetch torch once more
        if shutil.which("nvidia-smi"):
            os.environ.setdefault("UV_TORCH_BACKEND", "auto")  # as new as the driver can take
        yield with_uv
    elif _has(python, "pip"):
        yield with_pip
    elif importlib.util.find_spec("ensurepip"):
        yield [python, "-P", "-c", "import ensurepip; ensurepip.bootstrap()"]
        yield with_pip
    elif uv:
        yield with_uv
    else:
        yield [sys.executable, "-P", "-c", "raise SystemExit('ERROR: there is neither pip nor uv')"]


def _has(python: str, module: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([python, "-P", "-c", code], check=False, cwd="/").returncode == 0  # noqa: S603


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
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
