"""The training flow: place → provision → install → train → download → verify → teardown.

Every step can be run again. After any death of this process, running the same flow run again
adopts the machine, attaches to the training and goes on where the log and the download stood.
When the machine is lost, the job continues on another from its newest checkpoint at home.
"""

from __future__ import annotations

import asyncio
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import deployment

from blocks.models import Instance
from blocks.task_scope import all_of
from flows import outcome
from flows.job_file import on_this_computer
from flows.renting.budget import Budget
from flows.renting.giving_back import give_back_all
from flows.renting.journal import Journal
from flows.renting.lease import renewed
from flows.renting.writing_off import write_off
from flows.reporting import alerts
from flows.reporting.reporter import reporting
from flows.run_folder import RunFolder
from flows.saved import saved
from flows.settling import settle_run
from flows.sole_owner import sole_owner
from flows.streaming.requests import CancelAsked, unless_cancelled
from flows.suspending import suspending_means_pausing
from flows.tasks.download import at_home, download
from flows.tasks.install import install
from flows.tasks.place import place
from flows.tasks.provision import provision
from flows.tasks.stream import stream
from flows.tasks.teardown import stop_training_of_dead_flow, teardown
from flows.tasks.verify import verify
from trainer.config import TrainingJob
from trainer.contract.errors import MachineLost, OrchestratorError
from trainer.contract.job_directory import JobState


@flow(
    name="train",
    flow_run_name="{job.name}",
    on_cancellation=[stop_training_of_dead_flow],
    persist_result=False,
)
async def train(job: TrainingJob) -> dict[str, Any] | State[Any]:
    """Train one model or adapter and bring it home, verified.

    Args:
        job: what to train, on what, where, and within which limits.
    """
    run = RunFolder.of_this_run()
    # Jobs from a form have not been through `job_file`, which makes paths absolute.
    if deployment.id:
        job = on_this_computer(job)
    # Reporting is outermost, so that it delivers the alert of whatever ends the rest. A suspension
    # is turned into a request while we still wait for our turn, or the server would fail the run.
    async with reporting(job, run), suspending_means_pausing():
        async with sole_owner(run):
            try:
                await outcome.announce(JobState.INITIALIZING)
                await place(job)
                # Before a machine is hired: a process that died after the download left nothing
                # else to do.
                if folder := at_home(job, run):
                    verified = await verify(job, folder)
                    await give_back_all(Journal.of(run), "completed")
                    return await outcome.of_completed(run, verified)
                while (ended := await _on_machines(job, run)) is None:
                    await outcome.announce(JobState.INITIALIZING)
                status, report = ended
            except CancelAsked:
                await settle_run(job, run, "cancelled")
                return outcome.of_cancelled(run)
            except OrchestratorError as error:
                await settle_run(job, run, f"{type(error).__name__}: {error.message}")
                return outcome.of_error(run, error)
            except asyncio.CancelledError:
                # Otherwise only our process ends; the training goes on, and is attached to later.
                if await outcome.cancel_was_asked():
                    # Shielded: the worker may signal again, and the machine must not stay rented.
                    await asyncio.shield(settle_run(job, run, "cancelled"))
                    alerts.cancelled(run, f"cancelled; {saved(run)}")
                raise
        # The lock is free by now: `trainctl resume` may start the next process at once.
        if report is None:
            return await outcome.of_unfinished(job, run, status)
        return await outcome.of_completed(run, report)


async def _on_machines(
    job: TrainingJob, run: RunFolder
) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """Bring the training to its rest where it is placed; None when a machine was lost on the way.

    Of several machines the first holds the job: the others take part while it trains.

    Returns:
        The status it came to rest with, and the report of the artifact when it is completed.
    """
    # A training asks for itself whether it was cancelled; before it there is nothing to save.
    async with unless_cancelled():
        machines = await provision(job)
    first, report = machines[0], None
    try:
        async with renewed(job, [Instance.from_dict(machine) for machine in machines]):
            # While it trains, the budget is watched in `stream`, which lets the training save.
            async with unless_cancelled(), Budget(job, Journal.of(run)).guard():
                pythons = await all_of(install(job, machine) for machine in machines)
            status = await stream(job, machines, pythons)
            if status["state"] == JobState.COMPLETED:
                folder = await download(job, first)
                report = await verify(job, folder, str(status.get("warning") or ""))
    except MachineLost as error:
        await write_off(job, run, Instance.from_dict(first), error)
        return None
    # Only now, and never in a `finally`: what the machine holds is verified at home, or its job
    # came to rest with its checkpoint here.
    await teardown(job, machines, str(status["state"]))
    return status, report
