"""Keep the result of a job in its store too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import get_run_logger

from flows.full_disk import save_anyway
from flows.run_folder import RunFolder
from flows.streaming.run_store import RunStore
from flows.tasks.step import step
from trainer.config import TrainingJob
from trainer.contract.errors import IntegrityError, StoreError


@step
async def keep(job: TrainingJob, report: dict[str, Any]) -> dict[str, Any]:
    """Put the verified artifact into the job's store; return the report with where it is.

    From this computer, and after the machines are gone: nothing unverified gets there, and no
    machine is paid for meanwhile. Most of it is there already, with the last checkpoint. Trouble
    with the store does not change that the job completed; the report says it.
    """
    run = RunFolder.of_this_run()
    store = await RunStore.of(job, run)
    if store is None:
        return report
    try:
        report = {**report, "store": await store.keep_result(Path(report["path"]))}
    except (StoreError, IntegrityError) as error:
        get_run_logger().error("the artifact is not in the store: %s", error)
        report = {**report, "missing": _joined(report.get("missing"), error.message)}
    else:
        get_run_logger().info("the artifact is in %s", report["store"])
        await store.sweep()
    save_anyway(run.report, report)
    return report


def _joined(before: str | None, message: str) -> str:
    after = f"the artifact is not in the store: {message}"
    return f"{before}; {after}" if before else after
