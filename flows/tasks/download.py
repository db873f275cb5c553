"""Bring the output home: every file of its manifest, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from blocks.models import Instance
from blocks.registry import load_provider
from blocks.workplaces.base import Workplace
from flows.artifact_folder import check_artifact_folder
from flows.renting.journal import Journal
from flows.renting.liveness import bytes_in, in_contact, in_time
from flows.run_folder import RunFolder
from flows.streaming.outputs import fetch_output, fetch_reports, verify_output
from flows.tasks.step import step
from trainer.config import TrainingJob
from trainer.contract.errors import IntegrityError
from trainer.contract.files import fsync_directory, read_json


@step
async def download(job: TrainingJob, instance: dict[str, Any]) -> str:
    """Fetch the output into a folder beside its place, verify it, and put it there.

    Returns:
        The folder of the artifact.

    Raises:
        ConfigError: the place has come to hold something that is not ours; it is left alone.
        IntegrityError: a file arrived twice with another size or SHA-256 than its manifest says,
            or is one that an output must not hold.
        MachineLost: the machine is gone, or nothing more has come for as long as its lease lasts.
    """
    where = Instance.from_dict(instance)
    provider = await load_provider(where.provider)
    run = RunFolder.of_this_run()
    final = run.artifact(job.name, job.output_dir)
    partial = partial_of(final)

    journal = Journal.of(run)

    async def fetch(workplace: Workplace) -> int:
        # Done again when the connection is lost: what arrived is kept in `partial`.
        size = await fetch_output(workplace, partial, checkpoints=run.checkpoints)
        await fetch_reports(workplace, run.reports)
        return size

    size = await in_contact(
        job,
        provider,
        where,
        journal,
        fetch,
        arrived=lambda: bytes_in(partial, run.reports),
    )
    journal.came_home(journal.of_instance(where), size)
    get_run_logger().info("downloaded %.2f MB", size / 1e6)
    return await in_time(job.limits, lambda: put_in_place(partial, final))


def at_home(job: TrainingJob, run: RunFolder) -> str | None:
    """Return the artifact that is at home already, though the run's flow died before it ended.

    It came home after the flow's death, or the flow died after it had verified it.

    Raises:
        ConfigError: the place has come to hold something that is not ours; it is left alone.
    """
    final = run.artifact(job.name, job.output_dir)
    if _is_whole(run.rescued):
        return put_in_place(run.rescued, final)
    # Only what our own report names: with output_dir, an earlier job's artifact may lie there.
    reported = (read_json(run.report) or {}).get("path") == str(final)
    return str(final) if reported and _is_whole(final) else None


def _is_whole(folder: Path) -> bool:
    try:
        verify_output(folder)
    except IntegrityError:
        return False
    return True


def partial_of(final: Path) -> Path:
    """Return where an artifact is while it arrives: beside its place, hidden."""
    # On the same disk, so that moving it to its place is a rename.
    return final.with_name(f".{final.name}.partial")


def put_in_place(partial: Path, final: Path) -> str:
    """Move a whole artifact to where it goes, in one step where both are on one disk."""
    check_artifact_folder(final)  # again: hours may have passed, and somebody put files there
    if final.exists():
        shutil.rmtree(final)  # an earlier artifact of ours, or an empty folder
    shutil.move(partial, final)
    fsync_directory(final.parent)  # before a machine that still has it is given back
    return str(final)
