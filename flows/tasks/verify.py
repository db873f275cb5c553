"""Prove that the artifact is complete, and write its report."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from prefect import get_run_logger

from flows.renting.liveness import in_time
from flows.reporting.report import make_report
from flows.run_folder import RunFolder
from flows.shown import short_id
from flows.streaming.outputs import put_aside, verify_output
from flows.tasks.download import partial_of
from flows.tasks.step import step
from trainer.config import TrainingJob
from trainer.contract.errors import IntegrityError
from trainer.contract.files import replace_json
from trainer.contract.metrics import read_metrics


@step
async def verify(
    job: TrainingJob, folder: str, warning: str = "", missing: str = ""
) -> dict[str, Any]:
    """Read every file again from the disk, compare it, and return the report.

    Args:
        job: what was trained.
        folder: of the artifact.
        warning: what a person must do although the job completed.
        missing: what did not come home of its records.

    Raises:
        IntegrityError: naming the first file that differs; the artifact is no longer in its place.
    """
    # It was verified while it arrived; reading it back from the disk finds what the disk damaged.
    try:
        manifest = await asyncio.to_thread(verify_output, Path(folder))
    except IntegrityError:
        put_aside(Path(folder), partial_of(Path(folder)))
        raise
    run = RunFolder.of_this_run()
    steps, _ = await asyncio.to_thread(read_metrics, run.metrics)
    report = make_report(job, run, Path(folder), manifest, steps)
    report["warning"] = (
        f"{warning}. Do it with: trainctl push {short_id(run.run_id)}" if warning else None
    )
    report["missing"] = missing or None
    # `download.at_home` takes the file as the sign that the artifact is complete.
    await in_time(job.limits, lambda: replace_json(run.report, report))
    if report["warning"]:
        get_run_logger().warning("%s", report["warning"])
    if missing:
        get_run_logger().error("%s", missing)
    get_run_logger().info("artifact %s sha256 %s", report["file"], report["sha256"])
    return report
