"""What the commands do that change a job: resume, pause and cancel."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from rich.console import Console

from flows.accepted_changes import accept_changes
from flows.execute import schedule_again
from flows.run_folder import RunFolder
from flows.shown import job_state
from gateway import control, jobs
from gateway.batches import changing
from gateway.cli import looking, running
from gateway.cli.ending import rest_line, tell_end
from gateway.cli.signals import Signals
from gateway.exits import Exit, code_of_state, note, say
from gateway.prefect.client import connected
from gateway.prefect.full_client import call
from gateway.view import printable
from trainer.contract.job_directory import JobState


def resume(
    text: str, *, detach: bool, logs: bool, accept: bool, shape: dict[str, int | None]
) -> Exit:
    """Execute a job again: through its deployment's worker, or here.

    Args:
        text: names the job.
        detach: return at once.
        logs: show the log.
        accept: go on from other data than before.
        shape: by how many machines and processes, where not as before; see `control.reshape`.
    """
    run_id = looking.found(text).id

    async def work(client: PrefectClient) -> bool:
        found = await client.read_flow_run(run_id)
        control.refuse_resume(found)
        say(f"job {run_id}")
        if any(shape.values()):
            await control.reshape(client, found, **shape)
        if accept:
            await accept_changes(client, run_id)
        # Only a run that came from a deployment can go back to a worker; any other is executed
        # here.
        return await schedule_again(run_id)

    if call(work):
        say(f"its worker goes on with it; follow it: trainctl monitor {run_id} --follow")
        return Exit.OK
    client = connected()
    with Signals() as signals:
        # Else the viewer would take the state in which the run rested for its new end.
        client.set_state(run_id, "PENDING", force=True)
        return running.execute(client, run_id, signals, detach=detach, logs=logs)


def pause(text: str, *, wait: bool) -> Exit:
    """Ask a job to pause, and wait for it; one that waits in the queue leaves it at once."""
    run = looking.found(text)
    run_id = run.id
    if changing.pause_waiting(connected(), run):
        say(f"job {run_id} is paused; it had not started, and keeps its place until it is resumed")
        return Exit.OK

    async def work(client: PrefectClient) -> Exit:
        found = await client.read_flow_run(run_id)
        await control.ask_pause(client, found)
        if not wait:
            say(f"asked job {found.id} to pause")
            return Exit.OK
        async with _waiting("pausing: the training saves a checkpoint first …"):
            found = await control.until_paused(client, found.id)
        return _tell(found, JobState.PAUSED)

    return call(work)


def cancel(text: str, *, wait: bool) -> Exit:
    """Ask a job to stop, and wait for it."""
    run_id = looking.found(text).id

    async def work(client: PrefectClient) -> Exit:
        found = await client.read_flow_run(run_id)
        await control.ask_cancel(client, found)
        trains = job_state(found) in {JobState.INITIALIZING, JobState.RUNNING}
        saves = ": the training saves a checkpoint first" if trains else ""
        async with _waiting(f"stopping{saves} …"):
            # Also with --no-wait: a run whose process is dead must be stopped here or not at all.
            found = await control.until_stopped(client, found.id, wait=wait)
        if not job_state(found).at_rest:
            say(f"asked job {found.id} to stop")
            return Exit.OK
        return _tell(found, JobState.STOPPED)

    return call(work)


def _tell(run: FlowRun, wanted: JobState) -> Exit:
    """Say how a job came to rest: as wanted is success, anything else has its own exit code."""
    state = job_state(run)
    if state is wanted:
        say(rest_line(state, printable(jobs.message_of(run))))
        return Exit.OK
    tell_end(run, RunFolder(run.id))
    return code_of_state(state)


@asynccontextmanager
async def _waiting(message: str) -> AsyncIterator[None]:
    console = Console(stderr=True)
    # FORCE_COLOR makes rich take any stream for a terminal; a spinner in a log file is noise.
    if not (console.is_terminal and sys.stderr.isatty()):
        note(message)
        yield
        return
    with console.status(message):
        yield
