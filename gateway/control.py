"""Pause, resume and cancel a job from outside, whichever process executes it."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Cancelling, Running

from blocks.home import runs
from flows.attended import forget, is_worked_on
from flows.locks import locked
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.run_state import is_cancelled
from flows.saved import STOPPED, saved
from flows.settling import settle_run
from flows.shown import PAUSING, job_state, short_id
from trainer.config import TrainingJob
from trainer.config.explain import validated
from trainer.contract.errors import ConfigError, TrainingFailed
from trainer.contract.job_directory import JobState

POLL_SECONDS = 0.5
LAST_WORD_SECONDS = 20.0  # for our state to follow that of Prefect's worker; see flows.last_word
ABANDONED_SECONDS = 3.0  # with no process at work on the run: longer than a start takes


async def ask_pause(client: PrefectClient, run: FlowRun) -> None:
    """Ask a running job to save and pause.

    Raises:
        ConfigError: it does not run.
    """
    # Some are shown as running that must not be turned around: one that was asked to stop, and one
    # that waits for a worker, which would no longer find it.
    words = {StateType.CANCELLING: "stopping", StateType.SCHEDULED: "waiting for a worker"}
    state = words.get(run.state.type) if run.state else None
    state = state or job_state(run)
    if state not in {JobState.INITIALIZING, JobState.RUNNING}:
        raise ConfigError(
            f"Job {_short(run)} is {state}; only a running job can be paused.",
            f"See: trainctl status {_short(run)}",
        )
    await client.set_flow_run_state(run.id, Running(name=PAUSING), force=True)


async def until_paused(client: PrefectClient, run_id: UUID) -> FlowRun:
    """Wait until the job is at rest, paused as a rule.

    Raises:
        ConfigError: the process that executed it is dead, so the request reaches no one.
    """
    watch = AbandonmentWatch(run_id)
    while True:
        run = await client.read_flow_run(run_id)
        if job_state(run).at_rest:
            return run
        if run.state and run.state.type is StateType.RUNNING and run.state.name != PAUSING:
            # The flow reported that it trains just after we asked, and so overwrote the request.
            await client.set_flow_run_state(run_id, Running(name=PAUSING), force=True)
        if watch.is_abandoned():
            raise ConfigError(
                f"The process that executed job {_short(run)} is gone; nobody pauses it.",
                f"Attach to it again: trainctl resume {_short(run)}",
            )
        await asyncio.sleep(POLL_SECONDS)


async def ask_cancel(client: PrefectClient, run: FlowRun) -> None:
    """Ask a job to save and stop, as `prefect flow-run cancel` does.

    Raises:
        ConfigError: it is over.
    """
    state = job_state(run)
    if state is JobState.PAUSED:  # no process is at work that could do it
        # The message of a paused run reads "paused; saved at step 7 of 9"; the second half stays
        # true.
        how_far = ((run.state and run.state.message) or "").partition("; ")[2]
        message = f"cancelled while it was paused; {how_far}".rstrip("; ")
        stopped: State[Any] = Cancelled(name=STOPPED, message=message)
        await client.set_flow_run_state(run.id, stopped, force=True)
        return
    # A crashed one is not over: reconcile would execute it again, and it may be training.
    crashed = run.state is not None and run.state.is_crashed()
    if crashed or not state.at_rest:
        await client.set_flow_run_state(run.id, Cancelling(), force=crashed)
        # Prefect refuses that without an error when the job has ended since it was read.
        run = await client.read_flow_run(run.id)
        if is_cancelled(run.state):
            return
    raise ConfigError(
        f"Job {_short(run)} is {job_state(run)}; there is nothing to cancel.",
        "'trainctl list --state running' shows what runs.",
    )


async def until_stopped(client: PrefectClient, run_id: UUID, *, wait: bool) -> FlowRun:
    """Wait until the job is at rest; stop a training whose flow process is dead.

    Without `wait`, return as soon as a process is sure to obey.
    """
    watch = AbandonmentWatch(run_id)
    since: float | None = None
    while True:
        run = await client.read_flow_run(run_id)
        if job_state(run).at_rest:
            since = since or time.monotonic()
            # Prefect's worker sets "Cancelled" first, without our message. Ours follows from the
            # flow, and is worth a wait.
            late = time.monotonic() - since > LAST_WORD_SECONDS
            if run.state is None or run.state.name != "Cancelled" or late or _never_ran(run):
                return run
        elif watch.is_abandoned():
            return await _stop_abandoned(client, run)
        # With no process at work there is nobody to obey, so even --no-wait stays and stops the
        # run.
        if not wait and watch.somebody_works():
            return run
        await asyncio.sleep(POLL_SECONDS)


def _never_ran(run: FlowRun) -> bool:
    """Return whether a run that is over only waited: nobody will say more of its end."""
    # Prefect lets such a run start at the moment of its end.
    return run.start_time is None or run.start_time == run.end_time


def refuse_resume(run: FlowRun) -> None:
    """Refuse to execute a run that is completed, or at work.

    Raises:
        ConfigError: it is; the message says which.
    """
    state = job_state(run)
    waits = run.deployment_id and run.state and run.state.is_scheduled()
    if waits and state is JobState.CREATED:
        raise ConfigError(
            f"Job {_short(run)} waits in the queue already, and starts by itself.",
            f"See why it waits: trainctl why {_short(run)}",
        )
    if state is JobState.COMPLETED:
        raise ConfigError(
            f"Job {_short(run)} is completed; there is nothing to resume.", "Run it as a new job."
        )
    if is_worked_on(runs() / str(run.id)):
        raise ConfigError(
            f"Job {_short(run)} is {state}; a process executes it now.",
            f"Follow it: trainctl monitor {_short(run)} --follow",
        )
    # Another computer may be at work on it: a second process would train the same job twice.
    if not state.at_rest and not (runs() / str(run.id)).exists():
        raise ConfigError(
            f"Job {_short(run)} is {state}, and not on this computer.",
            f"Follow it: trainctl monitor {_short(run)} --follow",
        )


async def reshape(
    client: PrefectClient, run: FlowRun, *, nodes: int | None, processes: int | None
) -> None:
    """Let a job that is at rest go on by another number of machines or processes.

    Args:
        client: of Prefect.
        run: the job's.
        nodes: how many machines; None: as many as before.
        processes: how many GPUs of each, or processes where it trains without; None: as before.

    Raises:
        ConfigError: it still has machines, or cannot be trained so.
    """
    hired = Journal.of(RunFolder(run.id)).hires if (runs() / str(run.id)).exists() else []
    if not job_state(run).at_rest or any(hire.is_open for hire in hired):
        raise ConfigError(
            f"Job {_short(run)} is {job_state(run)} and has not let go of what it trains on.",
            f"Let it come to rest first: trainctl pause {_short(run)}",
        )
    name = f"job {_short(run)}"
    asked = validated(TrainingJob, run.parameters.get("job"), name).model_dump(mode="json")
    resources = asked["resources"]
    field = "cpu_processes" if resources["gpu_count"] == 0 else "gpu_count"
    given = {"nodes": nodes, field: processes}
    resources |= {key: value for key, value in given.items() if value}
    job = validated(TrainingJob, asked, name).model_dump(mode="json")
    await client.update_flow_run(run.id, parameters={**run.parameters, "job": job})


class AbandonmentWatch:
    """Notices, after a while, that no process of this computer executes a run any longer."""

    def __init__(self, run_id: UUID) -> None:
        self._run_id = run_id
        self._is_here = (runs() / str(run_id)).is_dir()
        self._free_since = time.monotonic()

    def somebody_works(self) -> bool:
        """Return whether a process executes it, as far as this computer can tell."""
        return not self._is_here or is_worked_on(runs() / str(self._run_id))

    def is_abandoned(self) -> bool:
        """Return whether none has for a while; to be called repeatedly."""
        if self.somebody_works():
            self._free_since = time.monotonic()
        return time.monotonic() - self._free_since > ABANDONED_SECONDS


async def _stop_abandoned(client: PrefectClient, run: FlowRun) -> FlowRun:
    """Do what the dead process of a run would have done: save, stop, give the machine back.

    Raises:
        TrainingFailed: a machine cannot be brought to its end now.
    """
    folder = RunFolder(run.id)
    job = TrainingJob.model_validate(run.parameters["job"])
    # Under the run's lock: a process that starts on it meanwhile waits, and then finds it at rest.
    async with locked(folder.lock):
        settled = await settle_run(job, folder, "cancelled")
    if not settled:
        raise TrainingFailed(
            f"Not everything of job {_short(run)} has ended.",
            "Try again, or see: trainctl reconcile --dry-run",
        )
    # Before the state is set: a marked run in a state of rest would look like one to revive.
    forget(folder.root)
    message = f"cancelled; {await asyncio.to_thread(saved, folder)}"
    stopped: State[Any] = Cancelled(name=STOPPED, message=message)
    await client.set_flow_run_state(run.id, stopped, force=True)
    return await client.read_flow_run(run.id)


def _short(run: FlowRun) -> str:
    return short_id(run.id)
