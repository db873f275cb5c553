"""What Prefect still lacks of a run once its training is over, and its machine is given back."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from prefect.client.schemas.actions import ArtifactCreate

from flows.logger import logger
from flows.prefect_api import UNANSWERED, prefect_client, was_away
from flows.reporting.report import as_markdown
from flows.run_folder import RunFolder
from flows.shown import REPORT
from flows.streaming.board import Board, picture
from flows.streaming.events import Events
from flows.streaming.log_shipper import ship_rest
from trainer.config import TrainingJob
from trainer.contract.metrics import read_metrics


async def tell_rest(job: TrainingJob, run: RunFolder, report: dict[str, Any] | None = None) -> None:
    """Bring the end of the log, the last metrics and the report to Prefect, however long it is away.

    What Prefect refuses, or this computer's disk prevents, is said and left out.

    Args:
        job: what was trained.
        run: its run.
        report: of the artifact, when there is one.
    """
    run_id = UUID(run.run_id)
    try:
        await ship_rest(run_id, run)
        if was_away():  # what Prefect emits by itself is lost meanwhile; it ignores what it has
            await asyncio.to_thread(Events(run_id, run).look)
        async with prefect_client() as client:
            await Board(client, run_id, run.metrics).finish()
            if report:
                await client.create_artifact(_card(job, run, report))
    except (*UNANSWERED, OSError) as error:
        logger().error("Prefect lacks the end of this run: %s", error)


def _card(job: TrainingJob, run: RunFolder, report: dict[str, Any]) -> ArtifactCreate:
    steps, _ = read_metrics(run.metrics)
    return ArtifactCreate(
        key=REPORT,
        type="markdown",
        description="What was trained, how well, and where the result is",
        data=as_markdown(job, report, picture(steps) if steps else ""),
        flow_run_id=UUID(run.run_id),
    )
