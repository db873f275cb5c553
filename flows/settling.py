"""Bring the machines of a run to their end, without loss, when its flow no longer does.

The training is asked to save and stop, what only the machine holds comes home, and then the machine
is given back. A step that fails leaves it to the next reconcile, which tries again, and to its
lease.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import time
from pathlib import Path
from uuid import UUID

from prefect import get_client

from blocks.machines.base import Machine
from blocks.models import Instance
from blocks.providers.absence import found_or_absent
from blocks.providers.base import Provider
from blocks.registry import load_provider
from blocks.task_scope import TaskScope
from flows.logger import logger
from flows.renting.giving_back import close, give_back
from flows.renting.journal import Hire, Journal
from flows.run_folder import RunFolder
from flows.streaming.board import Board
from flows.streaming.checkpoint_mirror import CheckpointMirror
from flows.streaming.file_mirror import mirror_file, until_size
from flows.streaming.log_shipper import ship_rest
from flows.streaming.outputs import fetch_output
from flows.streaming.training import ask, parse_status_text
from trainer.config import TrainingJob
from trainer.contract.errors import IntegrityError, OrchestratorError
from trainer.contract.job_directory import Desired, JobState, Status

LOOK_SECONDS = 1.0
EXTRA_SECONDS = 15.0  # beyond the grace that the training has to save


async def settle_run(job: TrainingJob, run: RunFolder, cause: str, *, shown: bool = True) -> bool:
    """Settle every open machine of a run; return whether all are gone, or need not go.

    Args:
        job: the run's.
        run: what is kept here of it.
        cause: why its machines go.
        shown: whether the rest of the log and metrics is shown in Prefect, too.
    """
    journal = Journal.of(run)
    done = True
    opened = [hire for hire in journal.hires if hire.is_open]
    # The first of several that train together saves only while the others take part.
    for hire in sorted(opened, key=lambda hire: (hire.rank, hire.attempt)):
        try:
            done = await settle(job, run, journal, hire, cause, shown=shown) and done
        except OrchestratorError as error:
            logger().error("%s is not settled: %s", hire.mark, error)
            done = False
    return done


async def settle(
    job: TrainingJob, run: RunFolder, journal: Journal, hire: Hire, cause: str, *, shown: bool
) -> bool:
    """Stop the training on a machine, save what it holds, and give it back.

    Returns:
        Whether nothing is left to do.
    """
    provider = await load_provider(hire.provider)
    instance = await found_or_absent(provider, hire.mark, hire.instance_id)
    if instance is None:
        await close(journal, hire, cause)
        return True
    # One that bears another mark by now is nobody's to stop here: giving back sees to that.
    if instance.status.is_lost or instance.mark not in {hire.mark, None}:
        return await give_back(journal, hire, cause)
    instance = dataclasses.replace(instance, workspace=hire.workspace or instance.workspace)
    # The job directory on this computer stays: it costs nothing, and the job can resume from it.
    if provider.is_home:
        async with provider.machine(instance) as machine:
            await _stop(job, machine, instance, cause)
            await _bring_records_home(machine, instance, run, shown=shown)
        return True
    holds = hire.workspace and not hire.rank  # of several machines the first holds the job
    if holds and not await _saved(job, run, journal, hire, instance, provider, cause, shown=shown):
        return False
    return await give_back(journal, hire, cause)


async def _saved(
    job: TrainingJob,
    run: RunFolder,
    journal: Journal,
    hire: Hire,
    instance: Instance,
    provider: Provider,
    cause: str,
    *,
    shown: bool,
) -> bool:
    """Whether the machine may go: what it holds is home, or was waited for long enough."""
    try:
        async with provider.machine(instance, compress=job.ssh_compression) as machine:
            await _stop(job, machine, instance, cause)
            await _bring_home(machine, instance, run, shown=shown)
    except (OrchestratorError, TimeoutError) as error:
        logger().error("what %s holds is not home: %s", instance.id, error)
    else:
        return True
    # The first failure starts the clock: a machine that cannot be emptied must not be paid for
    # longer than its lease, unless the job says that nothing is held at all.
    hire.held_since = hire.held_since or time.time()
    journal.save()
    waited = time.time() - hire.held_since
    if job.limits.teardown == "always" or waited > job.limits.lease_minutes * 60:
        logger().error("%s is given back without it", instance.id)
        return True
    return False


async def _stop(job: TrainingJob, machine: Machine, instance: Instance, cause: str) -> None:
    """Ask the training to save and stop, and wait; one that does not end ends with the machine."""
    status = await _status(machine, instance)
    if status.state is JobState.CREATED or _has_ended(status):
        return
    grace = job.limits.stop_grace_seconds
    await ask(machine, instance.workspace, Desired.STOP, cause, grace_seconds=grace)
    deadline = time.monotonic() + grace + EXTRA_SECONDS
    while not _has_ended(status) and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
        status = await _status(machine, instance)


async def _bring_home(machine: Machine, instance: Instance, run: RunFolder, *, shown: bool) -> None:
    """Fetch what only the machine holds: records, the newest checkpoint, and a finished output."""
    workspace = instance.workspace
    await _bring_records_home(machine, instance, run, shown=shown)
    await CheckpointMirror(machine, workspace, run.checkpoints).sync()
    if (await _status(machine, instance)).state is JobState.COMPLETED:
        try:
            await fetch_output(machine, workspace, run.rescued, checkpoints=run.checkpoints)
        except IntegrityError as error:  # it is not a usable result, so nothing is lost with it
            shutil.rmtree(run.rescued, ignore_errors=True)
            logger().error("the output is refused: %s", error)


async def _bring_records_home(
    machine: Machine, instance: Instance, run: RunFolder, *, shown: bool
) -> None:
    """Fetch the rest of log, metrics and events, and show it in Prefect if it shall be shown."""
    for mirror in (run.log, run.metrics, run.events):
        await _rest(machine, f"{instance.workspace}/{mirror.name}", mirror)
    if not shown:
        return
    run_id = UUID(run.run_id)
    await ship_rest(run_id, run)
    async with get_client() as client:
        await Board(client, run_id, run.metrics).finish()


async def _rest(machine: Machine, source: str, mirror: Path) -> None:
    """Append what the mirror lacks; what does not come is logged, and not waited for any longer."""
    # By wc, which every image has, because the Python there may be what is broken.
    result = await machine.run(["wc", "-c", source], timeout=60)
    count = result.stdout.split()[:1]
    size = int(count[0]) if count and count[0].isdecimal() else 0
    async with TaskScope() as scope:
        scope.start(mirror_file(machine, source, mirror))  # it ends only by failing
        await scope.result_of(until_size(mirror, size))


async def _status(machine: Machine, instance: Instance) -> Status:
    content = await machine.read(f"{instance.workspace}/status.json")
    return parse_status_text(content)


def _has_ended(status: Status) -> bool:
    # A state at rest may be written while the process still saves; `finished_at` comes last.
    return status.state.at_rest and status.finished_at is not None
