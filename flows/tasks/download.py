"""Bring the output home: every file of its manifest, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from blocks.machines.base import Machine
from blocks.models import Instance
from blocks.registry import load_provider
from flows.run_folder import RunFolder, check_artifact_folder
from flows.tasks.step import step
from trainer.config import TrainingJob
from trainer.errors import IntegrityError
from trainer.files import fsync_directory
from trainer.manifest import MANIFEST, read_manifest


@step
async def download(job: TrainingJob, instance: dict[str, Any]) -> str:
    """Fetch the output into a folder beside its place, verify it, and put it there.

    Returns:
        The folder of the artifact.

    Raises:
        ConfigError: the place has come to hold something that is not ours; it is left alone.
        IntegrityError: a file does not have the size or SHA-256 that its manifest says.
    """
    where = Instance.from_dict(instance)
    final = RunFolder.of_this_run().artifact(job.name, job.output_dir)
    partial = final.with_name(f".{final.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    async with load_provider(where.provider).machine(where) as machine:
        await _fetch(machine, f"{where.workspace}/output", partial)
    check_artifact_folder(final)  # again: hours may have passed, and somebody put files there
    if final.exists():
        shutil.rmtree(final)  # an earlier artifact of ours, or an empty folder
    partial.rename(final)
    fsync_directory(final.parent)
    return str(final)


async def _fetch(machine: Machine, source: str, folder: Path) -> None:
    await machine.download(f"{source}/{MANIFEST}", folder / MANIFEST)
    files = read_manifest(folder)["files"]
    total = sum(facts["bytes"] for facts in files.values())
    get_run_logger().info("downloading %d files, %.2f MB", len(files), total / 1e6)
    for name, facts in files.items():
        transfer = await machine.download(f"{source}/{name}", folder / name)
        if transfer.sha256 != facts["sha256"]:
            (folder / name).unlink()
            raise IntegrityError(f"{name} arrived with another SHA-256 than its manifest says.")
