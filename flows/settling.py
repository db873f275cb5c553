"""Bring the machines of a run to their end, without loss, when its flow no longer does.

The training is asked to save and stop, what only the machine holds comes home, and then the machine
is given back. A step that fails leaves it to the next reconcile, which tries again, and to its
lease.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from blocks.models import Instance, InstanceStatus
from blocks.providers.absence import found_or_absent
from blocks.providers.base import Provider
from blocks.registry import load_provider
from blocks.uptime import Moment
from blocks.workplaces.base import Lease, Wanted, Workplace
from flows.logger import logger
from flows.renting.giving_back import close, give_back
from flows.renting.hire import Hire
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.saved import saved_step
from flows.streaming.checkpoint_mirror import CheckpointMirror
from flows.streaming.file_mirror import fetch_rest, missing
from flows.streaming.outputs import fetch_output
from flows.streaming.run_store import RunStore
from flows.streaming.telling import tell_rest
from trainer.config import TrainingJob
from trainer.contract.errors import ConnectionLost, IntegrityError, OrchestratorError
from trainer.contract.job_directory import Desired, JobState, Status

LOOK_SECONDS = 1.0
GREET_SECONDS = 30.0  # for a machine to answer that may never have been ready
EXTRA_SECONDS = 15.0  # beyond the grace that the training has to save


async def settle_run(
    job: TrainingJob, run: RunFolder, cause: str, *, shown: bool = True, hurry: bool = False
) -> bool:
    """Settle every open machine of a run; return whether all are gone, or need not go.

    Args:
        job: the run's.
        run: what is kept here of it.
        cause: why its machines go.
        shown: whether the rest of the log and metrics is shown in Prefect, too.
        hurry: whether a result that takes longer to come home than a training may take to save is
            left behind where a checkpoint is at home: nobody waits, or pays, for it any longer.
    """
    journal = Journal.of(run)
    done = True
    opened = [hire for hire in journal.hires if hire.is_open]
    # The first of several that train together saves only while the others take part.
    for hire in sorted(opened, key=lambda hire: (hire.rank, hire.attempt)):
        try:
            done = await settle(job, run, journal, hire, cause, hurry=hurry) and done
        except OrchestratorError as error:
            logger().error("%s is not settled: %s", hire.mark, error)
            done = False
    # Last: a machine must not be paid for while Prefect is away.
    if shown:
        await tell_rest(job, run)
    return done


async def settle(
    job: TrainingJob,
    run: RunFolder,
    journal: Journal,
    hire: Hire,
    cause: str,
    *,
    hurry: bool = False,
) -> bool:
    """Stop the training on a machine, save what it holds, and give it back; see `settle_run`.

    Returns:
        Whether nothing is left to do.
    """
    provider = await load_provider(hire.provider)
    instance = await found_or_absent(provider, hire.mark, hire.instance_id)
    if instance is None:
        await close(journal, hire, cause)
        return True
    hire.seen(instance)
    # One that bears another mark by now is nobody's to stop here: giving back sees to that.
    if instance.status.is_lost or instance.mark not in {hire.mark, None}:
        return await give_back(journal, hire, cause)
    instance = dataclasses.replace(instance, workspace=hire.workspace or instance.workspace)
    # The job directory on this computer stays: it costs nothing, and the job can resume from it.
    if provider.is_home:
        async with provider.workplace(instance) as workplace:
            await _stop(job, workplace, cause)
            await _bring_records_home(workplace, run)
        return True
    home = _Home(job, run, hurry)
    if not hire.rank:  # of several machines the first holds the job
        where = hire.workspace or await _job_directory(job, hire, provider, instance)
        instance = dataclasses.replace(instance, workspace=where)
        if where and not await _saved(home, journal, hire, instance, provider, cause):
            return False
    return await give_back(journal, hire, cause)


async def _job_directory(
    job: TrainingJob, hire: Hire, provider: Provider, instance: Instance
) -> str:
    """Return where a job is on a machine whose row does not say that it was ever ready.

    It may train all the same: the row could not be written on a full disk, or is lost.

    Returns:
        The folder; empty when the machine does not answer.
    """
    if instance.status is not InstanceStatus.RUNNING or not instance.address:
        return ""
    wanted = Wanted(gpu_count=0, gpu_type=None, disk_gb=None)
    try:
        async with asyncio.timeout(GREET_SECONDS), provider.workplace(instance) as workplace:
            ready = await workplace.ready(wanted, Lease.of(job.limits))
    except (OrchestratorError, OSError) as error:  # TimeoutError among them
        logger().warning("%s was not ready yet: %s", instance.id, error)
        return ""
    return f"{ready.jobs}/{hire.mark}"


@dataclass(frozen=True, slots=True)
class _Home:
    """Where what a machine holds goes."""

    job: TrainingJob
    run: RunFolder
    hurry: bool


async def _saved(
    home: _Home,
    journal: Journal,
    hire: Hire,
    instance: Instance,
    provider: Provider,
    cause: str,
) -> bool:
    """Whether the machine may go: what it holds is home, or was waited for long enough."""
    job = home.job
    try:
        async with provider.workplace(instance, compress=job.ssh_compression) as workplace:
            await _stop(job, workplace, cause)
            came = functools.partial(journal.came_home, hire)
            await _bring_home(workplace, home, came)
    except (OrchestratorError, OSError) as error:  # this computer's disk may be full
        logger().error("what %s holds is not home: %s", instance.id, error)
    else:
        return True
    # The first failure starts the clock: a machine that cannot be emptied must not be paid for
    # longer than its lease, unless the job says that nothing is held at all.
    since = Moment.read(hire.held) or Moment.now()
    hire.held = since.to_dict()
    journal.save()
    waited = since.seconds_since()
    if job.limits.teardown == "always" or waited > job.limits.lease_minutes * 60:
        logger().error("%s is given back without it", instance.id)
        return True
    return False


async def _stop(job: TrainingJob, workplace: Workplace, cause: str) -> None:
    """Ask the training to save and stop, and wait; one that does not end ends with the machine."""
    status = await workplace.status()
    if status.state is JobState.CREATED or _has_ended(status):
        return
    grace = job.limits.stop_grace_seconds
    try:
        await workplace.ask(Desired.STOP, cause, grace_seconds=grace)
    except ConnectionLost:
        raise
    except (OrchestratorError, OSError) as error:  # its disk may be full: what is there comes home
        logger().warning("the training in %s is not asked to stop: %s", workplace.folder, error)
        return
    deadline = time.monotonic() + grace + EXTRA_SECONDS
    while not _has_ended(status) and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_SECONDS)
        status = await workplace.status()


async def _bring_home(workplace: Workplace, home: _Home, came: Callable[[int], None]) -> None:
    """Fetch what only the machine holds: records, the newest checkpoint, and a finished output."""
    run = home.run
    await _bring_records_home(workplace, run)
    store = await RunStore.of(home.job, run)
    await CheckpointMirror(workplace, run.checkpoints, came, store=store).sync(last=True)
    if (await workplace.status()).state is not JobState.COMPLETED:
        return
    seconds = home.job.limits.stop_grace_seconds if home.hurry and saved_step(run) else None
    try:
        async with asyncio.timeout(seconds) as timer:
            came(await fetch_output(workplace, run.rescued, checkpoints=run.checkpoints))
    except IntegrityError as error:  # it is not a usable result, so nothing is lost with it
        shutil.rmtree(run.rescued, ignore_errors=True)
        logger().error("the output is refused: %s", error)
    except TimeoutError:
        if not timer.expired():
            raise
        logger().warning("the output stays behind: it takes over %g s to fetch", seconds)


async def _bring_records_home(workplace: Workplace, run: RunFolder) -> None:
    """Fetch the rest of log, metrics and events.

    Raises:
        ConnectionLost: not all of it comes.
    """
    mirrors = (run.log, run.metrics, run.events)
    sizes = {mirror: await workplace.size(mirror.name) for mirror in mirrors}
    if not await fetch_rest(workplace, sizes):
        raise ConnectionLost(f"{workplace.folder}: {missing(sizes)}.")


def _has_ended(status: Status) -> bool:
    # A state at rest may be written while the process still saves; `finished_at` comes last.
    return status.state.at_rest and status.finished_at is not None
