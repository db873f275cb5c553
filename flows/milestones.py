"""What a job comes to, passed on to whoever wants to know: a platform, Prefect's events, people.

Nothing here raises: no report is worth a job.
"""

from __future__ import annotations

from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun

from flows.batches.completion import tell_completed
from flows.job_events import noting
from flows.job_events.kinds import Happening
from flows.job_events.sending import send_leftovers
from flows.job_events.waiting import tell_waiting
from flows.logger import logger
from flows.notifying import noting as people
from flows.notifying.delivering import deliver_waiting
from flows.reporting import alerts
from flows.reporting.leftovers import deliver_leftovers
from flows.run_folder import RunFolder
from trainer.contract.errors import MachineLost, OrchestratorError


def trains(run: RunFolder, total_steps: int) -> None:
    """The training is under way."""
    alerts.started(run, total_steps)
    people.started(run, total_steps)
    noting.trains(run)


def supervised(run: RunFolder) -> None:
    """A supervisor was started: the time that the training may take counts from now."""
    alerts.supervisor_started(run)
    people.supervisor_started(run)


def lost(run: RunFolder, error: MachineLost) -> None:
    """What it trained on is lost; it looks for something else."""
    people.lost(run, error)


def completed(run: RunFolder, report: dict[str, Any]) -> None:
    """The artifact is home and verified."""
    alerts.completed(run)
    people.completed(run, report)
    noting.rests(
        run,
        Happening.COMPLETED,
        output=report.get("path"),
        store=report.get("store"),
        metrics=report.get("metrics") or {},
        next_run=report.get("next_run"),
    )


def failed(run: RunFolder, error: OrchestratorError) -> None:
    """The job ended with an error."""
    alerts.failed(run, error)
    people.failed(run, error)
    noting.fails(run, error)


def let_go(run: RunFolder) -> None:
    """The job has failed, and waits to be tried again."""
    noting.lets_go(run)


def stopped(run: RunFolder, why: str) -> None:
    """The job was stopped: as asked, or because a limit was reached."""
    alerts.cancelled(run, why)
    people.stopped(run, why)
    noting.rests(run, Happening.STOPPED, why)


def paused(run: RunFolder, flow_run: FlowRun, why: str) -> None:
    """The job has saved, and rests until it is resumed, or has its turn again."""
    people.paused(run, why)
    noting.pauses(run, flow_run, why)


async def pass_on_rest(client: PrefectClient) -> None:
    """Pass on what no flow could: it died, or nobody took it; and what no flow saw."""
    await deliver_leftovers()
    await deliver_waiting()
    try:
        await send_leftovers()
        await tell_waiting(client)
        await tell_completed(client)
    except Exception as error:  # noqa: BLE001 - machines are to be given back all the same
        logger().error("the events of jobs are told later (%s: %s)", type(error).__name__, error)
