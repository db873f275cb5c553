"""Start or attach to the training, and carry its log, metrics and state home as they appear."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Coroutine
from typing import Any

from prefect import get_client

from blocks.models import Instance
from blocks.providers.base import Provider
from blocks.registry import load_provider
from blocks.task_scope import TaskScope
from flows.outcome import cancel_was_asked
from flows.renting.budget import Budget
from flows.renting.journal import Journal
from flows.renting.liveness import Contact, watch_provider
from flows.run_folder import RunFolder, this_run_id
from flows.streaming.board import Board
from flows.streaming.checkpoint_mirror import CheckpointMirror
from flows.streaming.events import Events
from flows.streaming.file_mirror import mirror_file, until_size
from flows.streaming.gang import GangTraining
from flows.streaming.log_shipper import LogShipper
from flows.streaming.nodes import Node
from flows.streaming.requests import watch_budget, watch_requests
from flows.streaming.training import RemoteTraining, Training
from flows.tasks.step import step
from trainer.config import TrainingJob
from trainer.contract.errors import ConnectionLost
from trainer.contract.job_directory import Desired, JobState, parse_status


@functools.partial(step, name="train")
async def stream(
    job: TrainingJob, machines: list[dict[str, Any]], pythons: list[str]
) -> dict[str, Any]:
    """Follow the training until it is at rest, and return its status.

    Args:
        job: what is trained.
        machines: where, by rank; the first holds the job.
        pythons: the Python on each that the trainer runs with.

    When this returns, every byte of log, metrics and events is here, and so is the newest
    checkpoint of a job that did not complete; every line of the log is with Prefect. Trouble on
    our side, such as a lost connection, never ends the training. When the job is cancelled, the
    training is asked to save and stop.

    Raises:
        MachineLost: the provider says that the machine is gone, or its lease has run out.
    """
    nodes = [
        Node(rank, Instance.from_dict(machine), python)
        for rank, (machine, python) in enumerate(zip(machines, pythons, strict=True))
    ]
    where = nodes[0].instance
    provider = await load_provider(where.provider)
    contact = Contact(job, provider, where)
    while True:
        try:
            return await _attached(job, nodes, provider, contact)
        except ConnectionLost as error:
            await contact.lost(error)  # raises MachineLost once there is nothing to return to


async def _attached(
    job: TrainingJob, nodes: list[Node], provider: Provider, contact: Contact
) -> dict[str, Any]:
    run = RunFolder.of_this_run()
    journal = Journal.of(run)
    first = nodes[0]
    async with provider.machine(first.instance, compress=job.ssh_compression) as machine:
        mirror = CheckpointMirror(machine, first.instance.workspace, run.checkpoints)
        training: Training = (
            GangTraining(job, machine, run, nodes, provider, journal=journal, mirror=mirror)
            if len(nodes) > 1
            else RemoteTraining(
                job, first.instance, machine, run, python=first.python, at_home=provider.is_home
            )
        )
        await training.start_or_attach()
        contact.made()
        try:
            status = await _follow(job, training, provider, run, mirror, journal)
        except asyncio.CancelledError:
            # SIGTERM comes as a cancellation too, for instance when the computer shuts down; then
            # the training must go on.
            if await cancel_was_asked():
                await asyncio.shield(training.ask(Desired.STOP, "cancelled"))
            raise
        # The last checkpoint may be newer than the mirror's last look, and the job resumes from it.
        if not provider.is_home and parse_status(status).state is not JobState.COMPLETED:
            await mirror.sync()
        return status


async def _follow(
    job: TrainingJob,
    training: Training,
    provider: Provider,
    run: RunFolder,
    mirror: CheckpointMirror,
    journal: Journal,
) -> dict[str, Any]:
    async with get_client() as client:
        run_id = this_run_id()
        shipper = LogShipper(client, run_id, run)
        board = Board(client, run_id, run.metrics)
        events = Events(run_id, run)
        helpers: list[Coroutine[Any, Any, None]] = [
            mirror_file(training.machine, f"{training.workspace}/train.log", run.log),
            mirror_file(training.machine, f"{training.workspace}/metrics.jsonl", run.metrics),
            mirror_file(training.machine, f"{training.workspace}/events.jsonl", run.events),
            shipper.run(),
            board.run(),
            events.run(),
            watch_requests(client, run_id, training.ask),
            watch_budget(Budget(job, journal), training.ask),
        ]
        if not provider.is_home:
            watch = watch_provider(job, provider, training.instance, journal)
            helpers += [mirror.run(), watch]
        async with TaskScope() as scope:
            for helper in helpers:
                scope.start(helper)
            # A helper ends only by failing. That must surface, even while only the last bytes are
            # awaited, which would otherwise never come.
            return await scope.result_of(_until_all_is_home(training, run, shipper, board, events))


async def _until_all_is_home(
    training: Training, run: RunFolder, shipper: LogShipper, board: Board, events: Events
) -> dict[str, Any]:
    """Wait until the job is at rest and every byte of log, metrics and events is here and shown."""
    # The sizes are read after the last process has ended, so they are final.
    status = await training.until_rest()
    await until_size(run.log, status.get("train_bytes"))
    await until_size(run.metrics, status.get("metrics_bytes"))
    await until_size(run.events, status.get("events_bytes"))
    # Only now: they read the mirrors, which have their last bytes since a moment ago.
    await shipper.finish()
    await board.finish()
    await asyncio.to_thread(events.look)
    return status
