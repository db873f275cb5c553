"""The package `trainer` as a wheel of its own, for machines that have nothing of ours installed."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
import stat
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import trainer
from trainer.contract.errors import DependencyError

PROJECT = "training-orchestrator"
WHEEL_PROJECT = f"{PROJECT}-trainer"
EXTRA = "trainer"
BASE_NEEDED = {"httpx", "nvidia-ml-py", "psutil", "pyarrow", "pydantic"}
"""The orchestrator's own requirements that `trainer` imports too, besides those of the extra."""
REQUIRES_PYTHON = ">=3.11"
HASH_DIGITS = 12  # of the content, in the version
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip can hold; equal content must be equal bytes
WHEEL_FACTS = """\
Wheel-Version: 1.0
Generator: training-orchestrator
Root-Is-Purelib: true
Tag: py3-none-any
"""


def trainer_wheel(folder: Path) -> Path:
    """Write the wheel into `folder` and return it; equal content has equal bytes and name.

    Raises:
        DependencyError: this package is not installed, so its requirements are unknown.
    """
    files = _package_files(Path(trainer.__file__).parent)
    requirements = trainer_requirements()
    # The hash is in the version, and with it in the name of the environment: a machine never runs
    # a job with an older trainer than the one that sent it.
    digest = hashlib.sha256("\n".join(requirements).encode())
    for name, content in files.items():
        digest.update(f"\n{hashlib.sha256(content).hexdigest()}  {name}".encode())
    version = f"{_installed().version}+{digest.hexdigest()[:HASH_DIGITS]}"
    stem = f"{WHEEL_PROJECT.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    files[f"{info}/METADATA"] = _metadata(version, requirements).encode()
    files[f"{info}/WHEEL"] = WHEEL_FACTS.encode()
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD").encode()
    return _write(folder / f"{stem}-py3-none-any.whl", files)


def trainer_requirements() -> list[str]:
    """Return what the trainer's machine must have, sorted, as requirements of pip.

    Raises:
        DependencyError: this package is not installed.
    """
    own = _installed().requires or []
    needed = [text for text in own if canonicalize_name(Requirement(text).name) in BASE_NEEDED]
    return sorted([*needed, *extra_requirements([EXTRA])])


def extra_requirements(extras: Iterable[str]) -> list[str]:
    """Return what extras of this project require, as pip takes it.

    Raises:
        DependencyError: this package is not installed.
    """
    found = []
    for extra in extras:
        of_extra = re.compile(rf"""\s*(\band\s+)?extra\s*==\s*['"]{extra}['"]""")
        for text in _installed().requires or []:
            required, _, marker = text.partition(";")
            # Without its extra, which is not asked for there; other markers stay.
            if of_extra.search(marker):
                rest = of_extra.sub("", marker).strip()
                found.append(f"{required.strip()}; {rest}" if rest else required.strip())
    return found


def _installed() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(PROJECT)
    except importlib.metadata.PackageNotFoundError as error:
        raise DependencyError(
            f"The package {PROJECT} is not installed here, so what its trainer needs is not known.",
            f"Run: pip install {PROJECT}, or pip install -e . in its source folder.",
        ) from error


def _package_files(package: Path) -> dict[str, bytes]:
    """Return the content of every file of the package by its name in the wheel."""
    return {
        path.relative_to(package.parent).as_posix(): path.read_bytes()
        for path in sorted(package.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def _metadata(version: str, requirements: list[str]) -> str:
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {WHEEL_PROJECT}",
        f"Version: {version}",
        "Summary: What Training Orchestrator runs on the GPU machine.",
        f"Requires-Python: {REQUIRES_PYTHON}",
        *(f"Requires-Dist: {requirement}" for requirement in requirements),
    ]
    return "\n".join(lines) + "\n"


def _record(files: Mapping[str, bytes], own_name: str) -> str:
    """Return RECORD: every file's hash and size, but for its own line, which has neither."""
    # https://packaging.python.org/en/latest/specifications/binary-distribution-format/
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
        lines.append(f"{name},sha256={digest.decode()},{len(content)}")
    return "\n".join([*lines, f"{own_name},,"]) + "\n"


def _write(path: Path, files: Mapping[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".whl", delete=False) as stream,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3  # Unix, wherever this runs
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    # By rename: another job may be reading the file of that name, which has the same bytes.
    return Path(stream.name).replace(path)
