"""Copy a verified artifact to another folder, verified before and after."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from blocks.home import runs
from flows.shown import ShownRun, job_state, short_id
from trainer.contract.errors import ConfigError, DiskFull, IntegrityError
from trainer.contract.files import fsync_directory, read_json
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import MANIFEST, verify


def download(run: ShownRun, target: Path) -> dict[str, Any]:
    """Copy the artifact of a completed job into `target`; return its report, paths made new.

    Raises:
        ConfigError: there is no artifact here, or `target` is not empty.
        IntegrityError: a file is not what the manifest says.
        DiskFull: the files do not fit.
    """
    report = report_of(run)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} exists and is not empty.", "Name another folder with --to.")
    source = Path(report["path"])
    copy_verified(source, target)
    # The report names places in the original, and its reader may have only the copy.
    weights = target / Path(report["file"]).relative_to(source)
    return {**report, "path": str(target), "file": str(weights)}


def report_of(run: ShownRun) -> dict[str, Any]:
    """Return the report of a completed job.

    Raises:
        ConfigError: the job is not completed, or was executed elsewhere.
    """
    short = short_id(run.id)
    state = job_state(run)
    if state is not JobState.COMPLETED:
        remedy = f"Resume it: trainctl resume {short}"
        if not state.at_rest:
            remedy = f"Follow it: trainctl monitor {short} --follow"
        raise ConfigError(f"Job {short} is {state}; it has no artifact yet.", remedy)
    report = read_json(runs() / str(run.id) / "report.json")
    if report is None:
        raise ConfigError(
            f"The artifact of job {short} is on the computer that executed it.",
            "Run the same command there.",
        )
    return report


def copy_verified(source: Path, target: Path) -> None:
    """Copy a folder with a manifest; `target` appears in one step, whole and verified."""
    # Before anything is copied: an artifact that is damaged at home is no reason to fill another
    # disk.
    manifest = verify(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    refuse_if_too_large(manifest, target.parent)
    # Beside its target, so that the rename at the end stays within one file system and is atomic.
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        for name in [*manifest["files"], MANIFEST]:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, partial / name)
        # The copy and not only the source: a disk that lies, or a file that changed in between,
        # shows here.
        verify(partial)
    except (OSError, IntegrityError):
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if target.is_dir():
        target.rmdir()
    partial.rename(target)
    fsync_directory(target.parent)


def refuse_if_too_large(manifest: dict[str, Any], folder: Path) -> None:
    """Refuse what does not fit on the disk of `folder`.

    Raises:
        DiskFull: with both sizes.
    """
    size = sum(facts["bytes"] for facts in manifest["files"].values())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskFull(
            f"{folder} has {free / 1e6:.0f} MB free; the artifact has {size / 1e6:.0f} MB.",
            "Free disk space or name another folder with --to.",
        )
