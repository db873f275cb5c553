"""How a job ends; `flows.shown` has the table of what Prefect shows then."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Pause
from prefect.states import Cancelled, Completed, Crashed, Failed, Paused

from flows import milestones
from flows.batches.retrying import try_again
from flows.full_disk import save_anyway
from flows.on_completion import start_next
from flows.prefect_api import UNANSWERED, prefect_client
from flows.renting.journal import Journal
from flows.run_folder import RunFolder, this_run_id
from flows.run_state import force_state, is_cancelled
from flows.saved import STOPPED, saved
from flows.shown import is_over
from flows.wanted import wanted_of
from trainer.config import TrainingJob
from trainer.contract.errors import (
    BudgetExceeded,
    ConnectionLost,
    HomeDiskFull,
    OrchestratorError,
    ProviderError,
    RateLimited,
    StoreAway,
    StoreError,
    TrainingFailed,
    from_dict,
)
from trainer.contract.job_directory import JobState
from trainer.contract.redaction import redacted

# Ten years: the server fails a paused run when its time is over, and ours should never be.
PAUSE_SECONDS = 10 * 365 * 24 * 3600


async def cancel_was_asked() -> bool:
    """Whether the flow run was cancelled; a process may be ended for other reasons."""
    try:
        return is_cancelled(await wanted_of(this_run_id()))
    except UNANSWERED:
        # When in doubt, go on: a training that goes on can still be stopped later.
        return False


async def is_at_its_end() -> bool:
    """Whether another process brought the flow run to its rest."""
    async with prefect_client() as client:
        return is_over(await client.read_flow_run(this_run_id()))


def is_undecided(error: Exception, journal: Journal) -> bool:
    """Whether an error leaves open how the job ends: trouble of ours, or of a provider's API.

    The trainer, the provider by what it says of a machine, the user and the limits end a job;
    nothing else does.
    """
    if isinstance(error, BudgetExceeded):
        return False
    # Neither a provider nor a store that rejects us says anything of a training that goes on.
    trains = any(hire.is_open and hire.workspace for hire in journal.hires)
    if isinstance(error, ProviderError | StoreError) and trains:
        return True
    return isinstance(
        error, ConnectionLost | RateLimited | HomeDiskFull | StoreAway
    ) or not isinstance(error, OrchestratorError)


def of_crash(error: Exception) -> State[Any]:
    """Return the state of a run that was not brought to its end: it is executed again.

    The training, if there is one, goes on meanwhile.
    """
    if isinstance(error, OrchestratorError):
        get_run_logger().error("%s: %s", type(error).__name__, error.message)
        message = error.message
    else:
        get_run_logger().error("the flow broke off", exc_info=error)
        message = redacted(str(error))
    return Crashed(message=f"{type(error).__name__}: {message}")


def of_error(run: RunFolder, error: OrchestratorError) -> State[Any]:
    """Return the failed state: the sentence and the suggestion, no traceback."""
    get_run_logger().error("%s: %s %s", type(error).__name__, error.message, error.suggestion)
    if isinstance(error, BudgetExceeded):
        milestones.stopped(run, error.message)
        return Cancelled(name=STOPPED, message=f"{error.message} {error.suggestion}")
    milestones.failed(run, error)
    return Failed(message=f"{type(error).__name__}: {error.message} {error.suggestion}")


async def of_failure(run: RunFolder, error: OrchestratorError) -> State[Any]:
    """Return the failed state of a run that is not tried again; see `flows.batches.retrying`.

    Raises:
        Pause: it is, and is scheduled already.
    """
    try:
        await try_again(error)
    except Pause:
        milestones.let_go(run)
        raise
    return of_error(run, error)


def of_cancelled(run: RunFolder) -> State[Any]:
    """Return the state of a job that was cancelled while no training ran that could save."""
    return _stopped(run, f"cancelled; {saved(run)}")


async def of_completed(
    job: TrainingJob, run: RunFolder, report: dict[str, Any]
) -> dict[str, Any] | State[Any]:
    """Start what comes after the job, and return the report.

    For a run that was cancelled too late, return a state that Prefect accepts.
    """
    # From Cancelling, the server's rules allow no Completed.
    async with prefect_client() as client:
        state = (await client.read_flow_run(this_run_id())).state
    is_cancelling = state is not None and state.is_cancelling()
    if job.on_completion and not is_cancelling:
        report = await start_next(job, run, report)
        save_anyway(run.report, report)
    milestones.completed(run, report)  # in either case, because the artifact exists
    if is_cancelling:
        return Cancelled(
            name=STOPPED, message=f"the training had ended already; artifact {report['file']}"
        )
    if report.get("missing"):
        completed: State[Any] = Completed(message=report["missing"])
        return completed
    return report


async def of_unfinished(job: TrainingJob, run: RunFolder, status: dict[str, Any]) -> State[Any]:
    """Return the state of a job that came to rest without being completed.

    Raises:
        Pause: it paused; Prefect then leaves the state that was set here as it is.
    """
    match JobState(status["state"]):
        case JobState.PAUSED:
            await _pause(run, _why(run, status))  # returns when it was cancelled meanwhile
            return _stopped(run, _why(run, status))
        case JobState.STOPPED:
            return _stopped(run, _why(run, status))
        case JobState.FAILED if status.get("error"):
            return await of_failure(run, from_dict(status["error"]))
        case JobState.CREATED | JobState.INITIALIZING | JobState.RUNNING:
            pass
        case JobState.FAILED | JobState.COMPLETED:
            pass
    return of_error(
        run, TrainingFailed(f"{job.name} ended as {status['state']} without giving a reason.")
    )


def _stopped(run: RunFolder, why: str) -> State[Any]:
    milestones.stopped(run, why)
    return Cancelled(name=STOPPED, message=why)


async def _pause(folder: RunFolder, why: str) -> None:
    async with prefect_client() as client:
        run = await client.read_flow_run(this_run_id())
        if run.state and (run.state.is_scheduled() or run.state.is_pending()):
            raise Pause(state=run.state)  # it was resumed before it had paused: leave it resumed
        if is_cancelled(run.state):
            return
        state = await force_state(client, run, lasting_pause(run, why))
    if not is_cancelled(state):
        milestones.paused(folder, run, why)
        raise Pause(state=state)


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
    missing = f"; {status['missing']}" if status.get("missing") else ""
    return f"{status.get('reason') or 'as asked'}; {saved(run)}{missing}"
