"""How a job ends, and what its flow run shows meanwhile; `flows.shown` has the table."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client, get_run_logger
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Pause, PrefectHTTPStatusError
from prefect.states import Cancelled, Failed, Paused, Running

from flows.reporting import alerts
from flows.run_folder import RunFolder, this_run_id
from flows.saved import STOPPED, saved
from flows.shown import PAUSING
from trainer.config import TrainingJob
from trainer.contract.errors import BudgetExceeded, OrchestratorError, TrainingFailed, from_dict
from trainer.contract.job_directory import JobState

# Ten years: the server fails a paused run when its time is over, and ours should never be.
PAUSE_SECONDS = 10 * 365 * 24 * 3600


async def announce(state: JobState) -> None:
    """Show `state` as the name of the running flow run's state; a request to pause stays."""
    name, run_id = state.capitalize(), this_run_id()
    async with get_client() as client:
        if pause_is_wanted((await client.read_flow_run(run_id)).state):
            return
        await client.set_flow_run_state(run_id, Running(name=name))
        states = await client.read_flow_run_states(run_id)
        before = [each for each in sorted(states, key=_when) if each.name != name][-1:]
        # Prefect has no compare-and-set for states: a request that came between our reading and our
        # writing was overwritten, but shows in the history. Ask again in its place.
        if any(map(pause_is_wanted, before)):
            await ask_to_pause(client, run_id)


async def ask_to_pause(client: PrefectClient, run_id: UUID) -> None:
    """Leave the request to pause in a run's state, where it lasts until the run has paused."""
    await client.set_flow_run_state(run_id, Running(name=PAUSING), force=True)


def pause_is_wanted(state: State | None) -> bool:
    """Whether somebody asks a run to pause, in Prefect's words or in ours."""
    return state is not None and (state.type is StateType.PAUSED or state.name == PAUSING)


def _when(state: State) -> datetime:
    return state.timestamp


async def cancel_was_asked() -> bool:
    """Whether the flow run was cancelled; a process may be ended for other reasons."""
    try:
        async with get_client() as client:
            state = (await client.read_flow_run(this_run_id())).state
    except (httpx.HTTPError, PrefectHTTPStatusError):
        # When in doubt, go on: a training that goes on can still be stopped later.
        return False
    return is_cancelled(state)


def is_cancelled(state: State | None) -> bool:
    """Whether a flow run is cancelled, or about to be."""
    return state is not None and state.type in {StateType.CANCELLING, StateType.CANCELLED}


def of_error(run: RunFolder, error: OrchestratorError) -> State[Any]:
    """Return the failed state: the sentence and the suggestion, no traceback."""
    get_run_logger().error("%s: %s %s", type(error).__name__, error.message, error.suggestion)
    if isinstance(error, BudgetExceeded):
        alerts.cancelled(run, error.message)
        return Cancelled(name=STOPPED, message=f"{error.message} {error.suggestion}")
    alerts.failed(run, error)
    return Failed(message=f"{type(error).__name__}: {error.message} {error.suggestion}")


def of_cancelled(run: RunFolder) -> State[Any]:
    """Return the state of a job that was cancelled while no training ran that could save."""
    message = f"cancelled; {saved(run)}"
    alerts.cancelled(run, message)
    return Cancelled(name=STOPPED, message=message)


async def of_completed(run: RunFolder, report: dict[str, Any]) -> dict[str, Any] | State[Any]:
    """Return the report; for a run that was cancelled too late, a state that Prefect accepts."""
    # From Cancelling, the server's rules allow no Completed.
    async with get_client() as client:
        state = (await client.read_flow_run(this_run_id())).state
    alerts.completed(run)  # in either case, because the artifact exists
    if state and state.is_cancelling():
        return Cancelled(
            name=STOPPED, message=f"the training had ended already; artifact {report['file']}"
        )
    return report


async def of_unfinished(job: TrainingJob, run: RunFolder, status: dict[str, Any]) -> State[Any]:
    """Return the state of a job that came to rest without being completed.

    Raises:
        Pause: it paused; Prefect then leaves the state that was set here as it is.
    """
    match JobState(status["state"]):
        case JobState.PAUSED:
            await _pause(_why(run, status))
        case JobState.STOPPED:
            alerts.cancelled(run, _why(run, status))
            return Cancelled(name=STOPPED, message=_why(run, status))
        case JobState.FAILED if status.get("error"):
            return of_error(run, from_dict(status["error"]))
        case JobState.CREATED | JobState.INITIALIZING | JobState.RUNNING:
            pass
        case JobState.FAILED | JobState.COMPLETED:
            pass
    return of_error(
        run, TrainingFailed(f"{job.name} ended as {status['state']} without giving a reason.")
    )


async def _pause(why: str) -> None:
    async with get_client() as client:
        run = await client.read_flow_run(this_run_id())
        if run.state and (run.state.is_scheduled() or run.state.is_pending()):
            raise Pause(state=run.state)  # it was resumed before it had paused: leave it resumed
        answer = await client.set_flow_run_state(run.id, lasting_pause(run, why), force=True)
    raise Pause(state=answer.state)


def lasting_pause(run: FlowRun, why: str) -> State[Any]:
    """Return the state of a run that rests until somebody resumes it.

    A run of a deployment is scheduled anew by Prefect's own Resume button; any other is resumed
    by `trainctl resume`.
    """
    state: State[Any] = Paused(
        timeout_seconds=PAUSE_SECONDS, reschedule=run.deployment_id is not None
    )
    state.message = why
    return state


def _why(run: RunFolder, status: dict[str, Any]) -> str:
    return f"{status.get('reason') or 'as asked'}; {saved(run)}"
