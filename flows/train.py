"""The training flow: adopt or place → provision → install → train → download → verify → teardown.

Every step can be run again. After any death of this process, running the same flow run again
adopts the machine, attaches to the training and goes on where the log and the download stood.
When the machine is lost, the job continues on another from its newest checkpoint at home.
Trouble of ours, or of an API, never ends it: see `flows.prefect_api`, `flows.outcome.is_undecided`.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import Abort

from blocks.models import Instance
from blocks.task_scope import TaskScope, all_of
from flows import milestones, outcome
from flows.announcing import announce, announcing, pause_was_asked
from flows.batches.outputs import with_outputs
from flows.earlier_jobs import may_be_job
from flows.full_disk import save_anyway
from flows.job_events.sending import telling
from flows.job_file import on_this_computer
from flows.logger import logger
from flows.notifying.delivering import notifying
from flows.owner import claim
from flows.prefect_api import NO_RESULTS, deployment_id, make_engine_patient
from flows.renting.giving_back import give_back_all
from flows.renting.journal import Journal
from flows.renting.lease import renewed
from flows.renting.liveness import trouble_here
from flows.renting.other_gpus import move_on, refuse_sick
from flows.renting.right_size import would_have_done
from flows.reporting.reporter import reporting
from flows.run_folder import RunFolder, this_run_id
from flows.saved import saved
from flows.settling import settle_run
from flows.setup.staging import staged
from flows.sole_owner import own
from flows.streaming.leftovers import fetch_left
from flows.streaming.requests import CancelAsked, heard
from flows.streaming.telling import tell_rest
from flows.suspending import suspending_means_pausing
from flows.tasks.download import at_home, download
from flows.tasks.install import install
from flows.tasks.keep import keep
from flows.tasks.place import place
from flows.tasks.provision import adopt, provision
from flows.tasks.stream import DataAway, stream
from flows.tasks.teardown import stop_training_of_dead_flow, teardown
from flows.tasks.verify import verify
from trainer.config import TrainingJob
from trainer.contract.errors import (
    BudgetExceeded,
    ConfigError,
    GpusTaken,
    MachineLost,
    OrchestratorError,
    StoreAway,
)
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobState

PAUSED: dict[str, Any] = {"state": JobState.PAUSED, "reason": "paused"}
"""The status of a job that rests without a machine."""


@flow(
    name="train",
    flow_run_name="{job.name}",
    on_cancellation=[stop_training_of_dead_flow],
    persist_result=False,
    result_storage=NO_RESULTS,
)
async def train(job: TrainingJob) -> dict[str, Any] | State[Any]:
    """Train one model or adapter and bring it home, verified.

    Args:
        job: what to train, on what, where, and within which limits.
    """
    run = RunFolder.of_this_run()
    make_engine_patient()
    try:
        job = await _prepared(job, run)
    except ConfigError as error:
        async with telling(run), notifying(job, run):
            return outcome.of_error(run, error)
    # Reporting is outermost, so that it delivers the alert of whatever ends the rest. A suspension
    # is turned into a request while we still wait for our turn, or the server would fail the run.
    async with (
        telling(run),
        notifying(job, run),
        reporting(job, run),
        suspending_means_pausing(),
    ):
        if await own(run) and await outcome.is_at_its_end():
            raise Abort("another process brought this run to its end")
        async with announcing(), TaskScope() as scope:
            # Beside the body, which must not wait for it should Prefect be away.
            scope.start(claim(this_run_id()))
            try:
                status, report = await _to_its_end(job, run)
            except CancelAsked:
                await settle_run(job, run, "cancelled", hurry=True)
                return outcome.of_cancelled(run)
            except asyncio.CancelledError:
                # Otherwise only our process ends; the training goes on, and is attached to later.
                if await outcome.cancel_was_asked():
                    # Shielded: the worker may signal again, and the machine must not stay rented.
                    await asyncio.shield(settle_run(job, run, "cancelled"))
                    milestones.stopped(run, f"cancelled; {saved(run)}")
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the training did not fail by it
                if outcome.is_undecided(error, Journal.of(run)):
                    return outcome.of_crash(error)
                ended = cast("OrchestratorError", error)
                cause = f"{type(ended).__name__}: {ended.message}"
                hurry = isinstance(ended, BudgetExceeded)
                await settle_run(job, run, cause, hurry=hurry)
                return await outcome.of_failure(run, ended)
            if report:
                report = await _afterwards(job, run, report)
            await tell_rest(job, run, report)
        if report is None:
            return await outcome.of_unfinished(job, run, status)
        return await outcome.of_completed(job, run, report)


async def _prepared(job: TrainingJob, run: RunFolder) -> TrainingJob:
    """Return a job with what it takes from others, and with its paths as they are here."""
    job = await with_outputs(job, run)
    # Jobs from a form have not been through `job_file`, which makes paths absolute.
    return await asyncio.to_thread(_resolved, job, run) if deployment_id() else job


def _resolved(job: TrainingJob, run: RunFolder) -> TrainingJob:
    """Return a job of a form with its paths; the job whose adapter it names stays the same one."""
    if known := read_json(run.adapter):
        settings = job.training.model_copy(update={"adapter": known["adapter"]})
        return on_this_computer(job.model_copy(update={"training": settings}))
    named, here = job.training.adapters, on_this_computer(job)
    # A name means the newest job of that name, and a resumed run may come after a newer one.
    if any(map(may_be_job, named)) and here.training.adapters != named:
        save_anyway(run.adapter, {"adapter": here.training.adapter})
    return here


async def _afterwards(job: TrainingJob, run: RunFolder, report: dict[str, Any]) -> dict[str, Any]:
    """Add to the report what takes nobody's money: the machine is given back."""
    try:
        if job.store:
            report = await keep(job, report)
        report["cheaper"] = await would_have_done(job, report)
    except Exception as error:  # noqa: BLE001 - the job has completed, and its artifact is here
        logger().error("the report is not complete", exc_info=error)
    save_anyway(run.report, report)
    return report


async def _to_its_end(
    job: TrainingJob, run: RunFolder
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Bring the training to its rest, on one machine after the other where they are lost.

    Returns:
        The status it came to rest with, and the report of the artifact when it is completed.
    """
    announce(JobState.INITIALIZING)
    # Before a machine is hired: a process that died after the download left nothing else to do.
    if folder := at_home(job, run):
        report = await verify(job, folder)
        await give_back_all(Journal.of(run), "completed")
        return {"state": JobState.COMPLETED}, report
    async with heard(job, run):
        machines = await _adopted(job, run)
        if not machines:
            # What shall rest needs no machine: it would be hired, and paid, only to pause.
            if await pause_was_asked():
                return PAUSED, None
            await place(job)
            machines = await provision(job)
    while (ended := await _on_machines(job, run, machines)) is None:
        announce(JobState.INITIALIZING)
        if await pause_was_asked():
            return PAUSED, None
        async with heard(job, run):
            machines = await provision(job)
    return ended


async def _readable(job: TrainingJob, run: RunFolder) -> None:
    """Wait until what the job reads from stores is here, or the job shall rest."""
    async with heard(job, run):
        while not await pause_was_asked():
            try:
                await staged(job.training, logger().info)
            except StoreAway as error:
                await trouble_here(error)
            else:
                return


async def _adopted(job: TrainingJob, run: RunFolder) -> list[dict[str, Any]]:
    """Return the machines that the run has; they come before anything is asked or priced."""
    if any(hire.is_open for hire in Journal.of(run).hires):
        return await adopt(job)
    return []


async def _on_machines(
    job: TrainingJob, run: RunFolder, machines: list[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """Bring the training to its rest where it is placed; None when a machine, or its GPUs, were lost.

    Of several machines the first holds the job: the others take part while it trains.

    Returns:
        The status it came to rest with, and the report of the artifact when it is completed.
    """
    first, report = machines[0], None
    try:
        async with renewed(job, run, [Instance.from_dict(machine) for machine in machines]):
            async with heard(job, run):
                pythons = await all_of(install(job, machine) for machine in machines)
            # While it trains, the training hears, and saves.
            status = await stream(job, machines, pythons)
            refuse_sick(status)
            if status["state"] == JobState.COMPLETED:
                async with heard(job, run):
                    folder = await download(job, first)
                    words = [str(status.get(name) or "") for name in ("warning", "missing")]
                    report = await verify(job, folder, *words)
    except (MachineLost, GpusTaken) as error:
        if isinstance(error, MachineLost):
            milestones.lost(run, error)
        async with heard(job, run):
            await fetch_left(job, run, Instance.from_dict(first))
        await move_on(job, run, Instance.from_dict(first), error)
        return None
    except DataAway as error:
        # Nobody pays for a machine that waits; another one is hired when there is work for it.
        logger().error("%s The machine is given back until the data can be read.", error.message)
        await teardown(job, machines, "waiting for data")
        await _readable(job, run)
        return None
    # Only now, and never in a `finally`: what the machine holds is verified at home, or its job
    # came to rest with its checkpoint here.
    await teardown(job, machines, str(status["state"]))
    return status, report
