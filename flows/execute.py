"""Create a run of the training flow, and execute a run here: for the first time, or again."""

from __future__ import annotations

import signal
import threading
from functools import cache
from typing import Any, cast
from uuid import UUID

from prefect import Flow, get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.flow_engine import run_flow_async
from prefect.flows import FlowStateHook
from prefect.states import Cancelled, Crashed, Pending, Scheduled

from blocks.home import artifacts
from flows.announcing import ask_to_pause, pause_is_wanted
from flows.logger import logger
from flows.prefect_api import patient_engine, prefect_client
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.run_state import force_state, is_cancelled
from flows.saved import STOPPED
from flows.shown import QUEUED, is_over, job_state
from flows.sole_owner import disown, own
from flows.suspending import watch_instead_of_engine
from flows.train import train
from flows.wanted import bell_of
from trainer.config import TrainingJob
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState


async def create_run(job: TrainingJob) -> FlowRun:
    """Create a flow run of this job without executing it."""
    async with get_client() as client:
        return await client.create_flow_run(
            train,
            parameters={"job": job.model_dump(mode="json")},
            name=job.name,
            state=Pending(),
        )


async def execute(run_id: UUID, *, asked: bool = True) -> State[Any]:
    """Execute a flow run in this process and return its last state.

    A run that died, paused, failed or stopped goes on where it stood: it adopts its machine,
    attaches to its training, or resumes from the newest checkpoint.

    Args:
        run_id: which.
        asked: whether a person asked for it; otherwise a run that came to rest meanwhile stays so.

    Raises:
        Pause: the job paused; its state is set.
        ConfigError: the run is completed.
    """
    folder = RunFolder(run_id)
    async with patient_engine(), prefect_client() as client:
        try:
            # Before the state is read: what another process does to it by then is final.
            waited = await own(folder)
            run = await client.read_flow_run(run_id)
            if run.state and (waited or not asked) and is_over(run):
                logger().warning("this run is %s already", run.state.name)
                return run.state
            if not asked and run.state and run.state.is_cancelling():
                return await _cancelled_before_it_began(client, run)
            if job_state(run) is JobState.COMPLETED:
                raise ConfigError(
                    f"Job {run_id} is completed; there is nothing to resume.",
                    "Run it as a new job.",
                )
            return await _executed(client, run, asked)
        finally:
            disown(folder)


async def _cancelled_before_it_began(client: PrefectClient, run: FlowRun) -> State[Any]:
    """Put a run to rest that was cancelled after it was given to us."""
    if Journal.of(RunFolder(run.id)).hires:  # reconcile settles what it has
        return cast("State[Any]", run.state)
    stopped: State[Any] = Cancelled(name=STOPPED, message="cancelled before it began")
    return (await client.set_flow_run_state(run.id, stopped, force=True)).state or stopped


async def execute_other(run_id: UUID, flow: Flow[..., Any]) -> State[Any]:
    """Execute a run of another flow than the training in this process and return its last state.

    Args:
        run_id: which; Prefect has given it to us.
        flow: its flow, which is async.
    """
    async with patient_engine(), prefect_client() as client:
        run = await client.read_flow_run(run_id)
        watch_instead_of_engine()
        state = await run_flow_async(
            flow, flow_run=run, parameters=run.parameters, return_type="state"
        )
        return cast("State[Any]", state)


async def _executed(client: PrefectClient, run: FlowRun, asked: bool) -> State[Any]:  # noqa: FBT001
    flow = _flow(is_named=run.name == (run.parameters.get("job") or {}).get("name"))
    if not asked and run.state and run.state.is_running() and pause_is_wanted(run.state):
        # The process died that was to pause it: it is asked again, once it can hear.
        flow = flow.with_options(
            on_running=[*flow.on_running_hooks, _asking_again(run.state.message)]
        )
    # One that was taken for us is left as it is: what Prefect notes there, such as a place among the
    # runs of its deployment, would be lost. Any other may be paused, or in a final state.
    if run.state is None or not run.state.is_pending():
        pending = await force_state(client, run, Pending())
        if is_cancelled(pending):
            logger().warning("this run was cancelled before it began")
            return pending
        run = await client.read_flow_run(run.id)
    watch_instead_of_engine()
    try:
        with bell_of(run.id):
            state = await run_flow_async(
                flow, flow_run=run, parameters=run.parameters, return_type="state"
            )
    except ObjectNotFound:
        # The flow itself does without Prefect; what cannot be told is how it ended.
        message = (
            "Prefect does not know this run any more: it was deleted, or its database was reset"
        )
        logger().error("%s. What it made is in %s", message, artifacts())
        return Crashed(message=message)
    ended = cast("State[Any]", state)
    if ended.is_final():  # Prefect took it
        return ended
    return await _cancelled_too_late(client, run.id) or ended


@cache
def _flow(*, is_named: bool) -> Flow[..., Any]:
    """Return the flow as it is executed here; made once, for it takes a while to describe a job.

    Args:
        is_named: whether the run has the name of its job already, so that nothing need be written.
    """
    # Handlers can be set only in the main thread.
    is_main = threading.current_thread() is threading.main_thread()
    flow = cast("Flow[..., Any]", train)
    made = flow.with_options(on_running=[_end_silently] if is_main else [])
    if is_named:
        made.flow_run_name = None
    return made


def _end_silently(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Let SIGTERM end this process as if it were killed: the run's state stays as it was.

    Prefect would show it as crashed although it trains. It is executed again, and attaches.
    """
    del flow, flow_run, state
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _asking_again(why: str | None) -> FlowStateHook[..., Any]:
    async def ask_again(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
        del flow, state
        async with prefect_client() as client:
            await ask_to_pause(client, flow_run.id, why)

    return ask_again


async def _cancelled_too_late(client: PrefectClient, run_id: UUID) -> State[Any] | None:
    """Put a run to rest that was cancelled between its flow's last check and its end.

    Prefect refuses the state that the flow ended in, and would show Cancelling for five minutes.
    """
    run = await client.read_flow_run(run_id)
    if run.state is None or not run.state.is_cancelling():
        return None
    if run.start_time is None:
        return await _cancelled_before_it_began(client, run)
    stopped: State[Any] = Cancelled(name=STOPPED, message="the job had ended already")
    return (await client.set_flow_run_state(run_id, stopped, force=True)).state


async def schedule_again(run_id: UUID) -> bool:
    """Have a worker execute the run again; return False when it belongs to no deployment."""
    async with get_client() as client:
        run = await client.read_flow_run(run_id)
        if run.deployment_id is None:
            return False
        if run.state and run.state.type in {StateType.RUNNING, StateType.CANCELLING}:
            raise ConfigError(
                f"Job {run_id} is {run.state.name}; it cannot be resumed now.",
                "Wait until it is at rest; for a flow whose process died, cancel it first.",
            )
        again: State[Any] = Scheduled(name="Resuming")
        if run.start_time is None:  # it left the queue before it began: back at its old place
            again = Scheduled(name=QUEUED, scheduled_time=run.created)
        if is_cancelled(await force_state(client, run, again)):
            raise ConfigError(
                f"Job {run_id} was cancelled at this moment.",
                "Look at it with 'trainctl show', and resume it again if you want it to go on.",
            )
        return True
