"""Start or attach to the training, and carry its log, metrics and state home as they appear."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from blocks.models import Instance
from blocks.providers.base import Provider
from blocks.registry import load_provider
from blocks.task_scope import TaskScope
from blocks.workplaces.base import Workplace
from flows.logger import logger
from flows.outcome import cancel_was_asked
from flows.prefect_api import prefect_client
from flows.renting.budget import Budget
from flows.renting.journal import Journal
from flows.renting.liveness import Contact, bytes_in, in_contact, trouble_here, watch_provider
from flows.run_folder import RunFolder, this_run_id
from flows.streaming.board import Board
from flows.streaming.checkpoint_mirror import CheckpointMirror
from flows.streaming.events import Events
from flows.streaming.file_mirror import fetch_rest, mirror_file, missing, until_size
from flows.streaming.gang import GangTraining
from flows.streaming.log_shipper import LogShipper
from flows.streaming.nodes import Node
from flows.streaming.parts_mirror import PartsMirror
from flows.streaming.requests import Hearing, heard, watch_budget, watch_requests
from flows.streaming.run_store import CHECKPOINTS, RunStore
from flows.streaming.training import RemoteTraining, Training
from flows.tasks.step import step
from trainer.config import TrainingJob
from trainer.contract.errors import ConnectionLost, HomeDiskFull, StoreAway
from trainer.contract.job_directory import Desired, JobState, parse_status

SHIP_SECONDS = 5.0  # for the end of the log to get to Prefect while the machine is still paid for
TRIES = 3  # at what the machine says it has, over a connection of its own each


@functools.partial(step, name="train")
async def stream(
    job: TrainingJob, machines: list[dict[str, Any]], pythons: list[str]
) -> dict[str, Any]:
    """Follow the training until it is at rest, and return its status.

    Args:
        job: what is trained.
        machines: where, by rank; the first holds the job.
        pythons: the Python on each that the trainer runs with.

    When this returns, every byte of log, metrics and events is here, or `missing` in the status
    says what is not, and so is the newest checkpoint of a job that did not complete. Trouble on our
    side, such as a lost connection, never ends the training. When the job is cancelled, the
    training is asked to save and stop.

    Raises:
        DataAway: before anything was trained there, a store has kept the job's data back for as long
            as a lease lasts.
        HomeDiskFull: for as long as a lease lasts there is no room here for the last checkpoint.
        MachineLost: the provider says that the machine is gone, or its lease has run out.
    """
    nodes = [
        Node(rank, Instance.from_dict(machine), python)
        for rank, (machine, python) in enumerate(zip(machines, pythons, strict=True))
    ]
    where, run = nodes[0].instance, RunFolder.of_this_run()
    provider = await load_provider(where.provider)
    contact = Contact(job, provider, where)
    journal = Journal.of(run)
    async with heard(job, run) as hearing, TaskScope() as scope:
        if not provider.is_home:
            scope.start(watch_provider(job, provider, where, journal))
        following = _Following(job, run, nodes, provider, contact, hearing, journal=journal)
        return await scope.result_of(following.to_its_rest())


class DataAway(StoreAway):
    """Nothing is trained on a machine, because a store keeps the job's data back."""


class _Following:
    """Follows a training, over one connection after the other."""

    def __init__(
        self,
        job: TrainingJob,
        run: RunFolder,
        nodes: list[Node],
        provider: Provider,
        contact: Contact,
        hearing: Hearing,
        *,
        journal: Journal,
    ) -> None:
        self._held_since: float | None = None
        self._has_begun = False
        """Whether a training has been started on the machine, or found there."""
        self._is_over = False
        """Whether the training has ended, and what remains is to bring its files home."""
        self._job = job
        self._run = run
        self._nodes = nodes
        self._provider = provider
        self._contact = contact
        self._hearing = hearing
        self._journal = journal

    async def to_its_rest(self) -> dict[str, Any]:
        """Return the status when all is home but the output."""
        while True:
            try:
                return await self._attached()
            except ConnectionLost as error:
                self._hearing.training_hears = False
                if self._is_over:
                    self._contact.fruitless(bytes_in(self._run.root), error)
                await self._contact.lost(error)  # MachineLost: there is nothing to return to
            except (OSError, HomeDiskFull, StoreAway) as error:
                self._hearing.training_hears = False
                idle = not self._has_begun and isinstance(error, StoreAway)
                # For as long as a lease lasts a machine waits for room here, or for its data.
                if self._is_over or (idle and not self._provider.is_home):
                    self._held_since = self._held_since or time.monotonic()
                    waited = time.monotonic() - self._held_since
                    if waited > self._job.limits.lease_minutes * 60:
                        if idle:
                            raise DataAway(str(error)) from error
                        raise
                await trouble_here(error)

    async def _attached(self) -> dict[str, Any]:
        where = self._nodes[0].instance
        compress = self._job.ssh_compression
        async with self._provider.workplace(where, compress=compress) as workplace:
            hire = self._journal.of_instance(where)
            came = functools.partial(self._journal.came_home, hire)
            store = await RunStore.of(self._job, self._run)
            mirror = self._mirror(workplace, came, store)
            training = self._training(workplace, mirror)
            await training.start_or_attach()
            self._has_begun, self._held_since = True, None
            self._journal.training_began(hire)
            self._contact.made()
            # From here on a cancellation, or the cap, lets it save and stop.
            self._hearing.training_hears = True
            try:
                status = await self._follow(training, mirror, store)
            except asyncio.CancelledError:
                # SIGTERM comes as a cancellation too, for instance when the computer shuts down;
                # then the training must go on.
                if await cancel_was_asked():
                    await asyncio.shield(training.ask(Desired.STOP, "cancelled"))
                raise
            self._is_over = True
            # The last checkpoint may be newer than the mirror's last look, and the job resumes
            # from it.
            completed = parse_status(status).state is JobState.COMPLETED
            if not self._provider.is_home and not completed:
                await mirror.sync(last=True)
            elif store and not completed:
                await store.keep_newest(Path(workplace.folder) / CHECKPOINTS)
        return {**status, "missing": await self._missing(status)}

    def _mirror(
        self, workplace: Workplace, came: Callable[[int], None], store: RunStore | None
    ) -> CheckpointMirror:
        home, first, *others = self._run.checkpoints, *self._nodes
        if not others or self._job.training.parallelism != "fsdp":
            return CheckpointMirror(workplace, home, came, store=store, python=first.python)
        reach = [
            functools.partial(in_contact, self._job, self._provider, other.instance, self._journal)
            for other in others
        ]
        return PartsMirror(workplace, home, came, store=store, python=first.python, others=reach)

    def _training(self, workplace: Workplace, mirror: CheckpointMirror) -> Training:
        job, run, first = self._job, self._run, self._nodes[0]
        if len(self._nodes) > 1:
            journal = self._journal
            return GangTraining(
                job, workplace, run, self._nodes, self._provider, journal=journal, mirror=mirror
            )
        return RemoteTraining(job, first.instance, workplace, run, python=first.python)

    async def _follow(
        self, training: Training, mirror: CheckpointMirror, store: RunStore | None
    ) -> dict[str, Any]:
        run, run_id = self._run, this_run_id()
        async with prefect_client() as client:
            shipper = LogShipper(client, run_id, run)
            board = Board(client, run_id, run.metrics)
            events = Events(run_id, run)
            helpers: list[Coroutine[Any, Any, None]] = [
                mirror_file(training.workplace, mirrored.name, mirrored)
                for mirrored in (run.log, run.metrics, run.events)
            ]
            helpers += [
                shipper.run(),
                board.run(),
                events.run(),
                watch_requests(run_id, training.ask),
                watch_budget(Budget(self._job, self._journal), training.ask),
            ]
            if not self._provider.is_home:
                helpers.append(mirror.run())
            elif store:
                helpers.append(store.follow(Path(training.workplace.folder) / CHECKPOINTS))
            async with TaskScope() as scope:
                for helper in helpers:
                    scope.start(helper)
                # A helper ends only by failing. That must surface, even while only the last bytes
                # are awaited, which would otherwise never come.
                return await scope.result_of(self._until_all_is_home(training, shipper, events))

    async def _until_all_is_home(
        self, training: Training, shipper: LogShipper, events: Events
    ) -> dict[str, Any]:
        """Wait until the job is at rest and its log, metrics and events are here and shown."""
        # The sizes are read after the last process has ended, so they are final.
        status = await training.until_rest()
        for mirror, size in _sizes(self._run, status).items():
            if not await until_size(mirror, size):
                return status  # the line is silent: `_missing` tries another
        # Only now: they read the mirrors, which have their last bytes since a moment ago. The rest
        # of the log follows after teardown, for which a machine must not wait.
        with suppress(TimeoutError):
            async with asyncio.timeout(SHIP_SECONDS):
                await shipper.finish()
        await asyncio.to_thread(events.look)
        return status

    async def _missing(self, status: dict[str, Any]) -> str:
        """Fetch over another connection what did not come; return what is missing after all.

        Raises:
            ConnectionLost: the machine cannot be reached.
        """
        sizes, where = _sizes(self._run, status), self._nodes[0].instance
        for _ in range(TRIES):
            if not missing(sizes):
                break
            logger().warning("%s; over another connection", missing(sizes))
            async with self._provider.workplace(where) as workplace:
                await fetch_rest(workplace, sizes)
        return missing(sizes)


def _sizes(run: RunFolder, status: dict[str, Any]) -> dict[Path, Any]:
    """Return how many bytes there are on the machine, by the mirror here."""
    names = {run.log: "train_bytes", run.metrics: "metrics_bytes", run.events: "events_bytes"}
    return {mirror: status.get(name) for mirror, name in names.items()}
