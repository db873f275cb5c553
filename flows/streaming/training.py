"""The training of one run in one job directory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from blocks.models import Instance
from blocks.workplaces.base import NoAnswer, Workplace
from flows import milestones
from flows.accepted_changes import accepted_changes
from flows.announcing import announce
from flows.earlier_jobs import job_of
from flows.logger import logger
from flows.renting.other_gpus import allocation_of, has_what_was_allotted, on_other_gpus
from flows.run_folder import RunFolder
from flows.setup.job_token import reporting_variables
from flows.setup.secrets import kept_elsewhere, named_in, secrets
from flows.setup.shipping import ship
from flows.setup.staging import staged
from flows.streaming.checkpoint_mirror import put_back
from flows.streaming.run_store import RunStore
from flows.streaming.straight import straight
from trainer.config import TrainingConfig, TrainingJob
from trainer.contract.checkpoints import newest_valid, step_of
from trainer.contract.errors import (
    ConnectionLost,
    DiskFull,
    GpusTaken,
    MachineLost,
    OrchestratorError,
    TrainingFailed,
)
from trainer.contract.job_directory import (
    LEASE_EXPIRED,
    Desired,
    JobState,
    Status,
    parse_status,
    parse_status_text,
)

HOME_SECONDS = 0.5  # between two looks at status.json on this computer
AWAY_SECONDS = 1.5  # and on a machine elsewhere, where a look is a message there and back
SILENCE_SECONDS = 10.0  # without a change of status.json: check whether a process still runs there
PROBES = 3  # questions to the supervisor until one is in vain
PROBE_SECONDS = 5.0  # between two of them
FULL_BYTES = 1 << 20  # free; with less, neither a log line nor a status is written for long
MAX_REVIVALS = 3  # supervisors started anew after one disappeared without leaving a reason

T = TypeVar("T")


class Training(Protocol):
    """The training of one run as the flow sees it, on however many machines."""

    @property
    def instance(self) -> Instance:
        """The machine that holds the job."""

    @property
    def workplace(self) -> Workplace:
        """The job directory there."""

    async def start_or_attach(self) -> None:
        """Start the training, or follow it if it is running already."""

    async def ask(self, desired: Desired, reason: str) -> None:
        """Ask the training to go on, to pause or to stop."""

    async def until_rest(self) -> dict[str, Any]:
        """Wait until the job is at rest; return status and sizes as they are then."""


class Lead:
    """What is done only on the machine that holds the job.

    Its log and records go on where those of a machine before it ended, and its start is announced.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._ran = False

    async def take_along(self, training: RemoteTraining) -> None:
        """Let the training go on where it ended on a machine that was lost.

        The log goes on where its mirror ends: the file there begins with a hole of that size, so
        that both ends count the same bytes. Metrics and events go along, because the final report
        covers the whole training.
        """
        log = self._run.log
        if log.exists():
            await training.workplace.begin(log.name, _with_last_line_ended(log))
        for records in (self._run.metrics, self._run.events):
            if records.exists():
                _with_last_line_ended(records)
                await training.workplace.put(records, records.name)
        if training.job.resources.nodes > 1:
            return  # what each machine needs of a checkpoint comes when all start
        checkpoint, _ = newest_valid(self._run.checkpoints)
        store = await RunStore.of(training.job, self._run)
        home = step_of(checkpoint) if checkpoint else 0
        if store and await store.give(training.workplace, training.python, home):
            return
        if checkpoint:
            logger().info("continuing from %s", checkpoint.name)
            await put_back(training.workplace, checkpoint)

    def started(self) -> None:
        """Note that a supervisor was started."""
        milestones.supervised(self._run)

    def running(self, status: Status) -> None:
        """Announce, once, that it trains."""
        if not self._ran:
            self._ran = True
            announce(JobState.RUNNING)
            milestones.trains(self._run, status.total_steps)


class RemoteTraining:
    """The training of one run on one machine."""

    def __init__(
        self,
        job: TrainingJob,
        instance: Instance,
        workplace: Workplace,
        run: RunFolder,
        *,
        python: str,
        rank: int = 0,
    ) -> None:
        """Prepare to work with it; nothing is sent yet.

        Args:
            job: what is trained.
            instance: where.
            workplace: the job directory there.
            run: what is kept here of the run.
            python: the Python there that has the trainer.
            rank: of the machine, among those that train together; the first one holds the job.
        """
        self.rank = rank
        self.job = job
        self.instance = instance
        self.workplace = workplace
        self._run = run
        self.python = python
        self._lead = None if rank else Lead(run)
        self.variables: dict[str, str] = {}
        """Further variables for the trainer's environment."""

    async def start_or_attach(self) -> None:
        """Start the supervisor, or follow the one that is running already."""
        is_new = await self.move_in()
        # In a folder that was used before, control.json still says pause or stop. It must not be
        # reset while somebody works there: that would undo a request of a moment ago.
        if not is_new and not (await self.examine())["alive"]:
            await self._regroup()
            await self.ask(Desired.RUN, "")
        verb = "attached to" if await self.start() else "started"
        logger().info("%s the training in %s", verb, self.workplace.folder)

    async def _regroup(self) -> None:
        """Let as many processes go on as the job asks for now."""
        record = json.loads(await self.workplace.read("job.json") or b"{}")
        if record.get("world") != self._world:
            await self.workplace.write("job.json", {**record, "world": self._world})

    @property
    def _world(self) -> dict[str, int]:
        return {"processes": self.job.processes_per_machine}

    async def start(self) -> bool:
        """Start the supervisor unless one is running; return whether one was.

        Raises:
            GpusTaken: others have its GPUs, and it can have no others there.
        """
        given = not self.workplace.is_home or has_what_was_allotted(self.instance)
        if not given and not (await self.examine())["alive"]:
            self.instance = await on_other_gpus(self.job, self.instance, None)
        while True:
            try:
                was_running = await self._start()
                break
            except GpusTaken as error:
                self.instance = await on_other_gpus(self.job, self.instance, error)
        if self._lead and not was_running:
            self._lead.started()
        return was_running

    async def _start(self) -> bool:
        allocation = allocation_of(self.instance)
        # Also where it has none any more: an earlier start may have left some behind.
        if allocation.uuids or await self.workplace.read("gpus.json") is not None:
            await self.workplace.write("gpus.json", asdict(allocation))
        env = await self.environment()
        return await self._probed(lambda: self.workplace.start(self.python, env))

    async def move_in(self) -> bool:
        """Fill a new job directory; `job.json` is written last, so that a torn start is redone.

        Returns:
            Whether it was new.
        """
        if await self.workplace.read("job.json") is not None:
            return False
        config = await staged(self.job.training, logger().info)
        if not self.workplace.is_home:
            by = straight(self.job.training, config, self.workplace, self.python)
            config = await ship(self.workplace, config, logger().info, by)
            # On the other machines logs start anew, and the checkpoint comes when all start.
            if self._lead:
                await self._lead.take_along(self)
        await self.workplace.write("job.json", self.job_file(config))
        return True

    async def ask(self, desired: Desired, reason: str) -> None:
        """Ask trainer and supervisor to go on, to pause or to stop."""
        grace = self.job.limits.stop_grace_seconds
        await self.workplace.ask(desired, reason, grace_seconds=grace)

    async def examine(self) -> dict[str, Any]:
        """Return status, whether anything runs there, and the sizes of log, metrics and events."""
        return await self._probed(lambda: self.workplace.examine(self.python))

    async def until_rest(self) -> dict[str, Any]:
        """Wait until the job is at rest; return what `examine` says of it then.

        Raises:
            TrainingFailed: supervisor and trainer disappear again and again without a reason.
            DiskFull: the machine's disk is full, so that they cannot leave one.
        """
        revivals = 0
        while True:
            facts = await self.until_nobody_works()
            ended = parse_status(facts)
            if ended.state.at_rest and not ended.interrupted:
                return facts
            revivals += 1
            if revivals > MAX_REVIVALS:
                raise await self._cause_of_death(revivals)
            why = f" ({ended.reason})" if ended.interrupted else ""
            logger().warning(
                "no process is running in %s%s; starting again", self.workplace.folder, why
            )
            # Only a lease that ran out leaves a request behind. After a signal there may be one of
            # a person, who must not be overruled.
            if ended.reason.startswith(LEASE_EXPIRED):
                await self.ask(Desired.RUN, "")
            await self.start()

    async def _cause_of_death(self, times: int) -> OrchestratorError:
        """Return why supervisors disappear, as far as the machine shows it."""
        where = self.instance.id
        try:
            room = await self.workplace.room()
        except ConnectionLost:
            raise
        except (OrchestratorError, OSError) as error:
            logger().warning("how full the disk of %s is cannot be learned: %s", where, error)
        else:
            if room.free < FULL_BYTES:
                return DiskFull(
                    f"The disk of {where} is full: {room.free / 2**20:.1f} of "
                    f"{room.total / 2**20:.0f} MiB are free in {self.workplace.folder}.",
                    "Ask for more in resources.disk_gb, or lower save_total_limit, and resume "
                    "the job.",
                )
        return TrainingFailed(f"The training's supervisor on {where} disappeared {times} times.")

    async def until_nobody_works(self) -> dict[str, Any]:
        """Wait until neither supervisor nor trainer runs; return what `examine` says then."""
        look = HOME_SECONDS if self.workplace.is_home else AWAY_SECONDS
        seen: bytes | None = None
        silent, heard_at = 0.0, time.monotonic()
        while True:
            content = await self.workplace.read("status.json")
            status = parse_status_text(content)
            if self._lead and status.state is JobState.RUNNING:
                self._lead.running(status)
            silent = silent + look if content == seen else 0.0
            if content != seen:
                seen, heard_at = content, time.monotonic()
            # status.json is cheap to read but proves nothing: its writer may be dead, or may have
            # written its last state and still be closing files. Only `examine` looks at processes.
            if status.state.at_rest or silent >= SILENCE_SECONDS:
                silent = 0.0
                try:
                    facts = await self.examine()
                except NoAnswer as error:
                    self._give_up_after_a_lease(heard_at, error)
                else:
                    heard_at = time.monotonic()
                    if not facts.get("alive"):
                        return facts
            await asyncio.sleep(look)

    def _give_up_after_a_lease(self, heard_at: float, error: NoAnswer) -> None:
        """Go on while a supervisor does not answer: its provider says whether the machine is lost.

        Raises:
            MachineLost: nothing was heard of the training for as long as a lease lasts.
        """
        minutes = self.job.limits.lease_minutes
        if time.monotonic() - heard_at > minutes * 60:
            raise MachineLost(f"No sign of the training for {minutes:g} minutes: {error.message}")

    def job_file(self, config: TrainingConfig) -> dict[str, Any]:
        """Return the content of `job.json`."""
        limits, training = self.job.limits.model_dump(), self.job.training
        data = training.dataset
        return {
            "version": 1,
            "run_id": self._run.run_id,
            "name": self.job.name,
            "config": config.model_dump(mode="json"),
            "named": {
                "model": training.model,
                "dataset": dict(data.files()) if data.sources else data.path,
                "adapter": training.adapter,
            },
            "continues": training.with_adapters(lambda name: job_of(Path(name))),
            "limits": limits,
            "world": self._world,
            "notice": self.workplace.notice_command,
        }

    async def environment(self) -> dict[str, str]:
        """Return what the trainer finds in its environment: its GPUs, its threads, our tokens."""
        # Tokens go by the environment of one command, never into a file of a rented machine. In a
        # thread: a login to the Hub that runs out is renewed over the network.
        read = kept_elsewhere if self.workplace.is_home else secrets
        tokens = await asyncio.to_thread(read, named_in(self.job))
        reports = await reporting_variables(self.job, self._run.run_id)
        given = {**reports, **self.variables, **tokens, **accepted_changes()}
        instance, threads = self.instance, self.job.resources.cpu_threads
        # Empty for a job without GPUs, which hides them all: others may be using them.
        if instance.gpu_ids or not instance.gpu_count:
            given["CUDA_VISIBLE_DEVICES"] = ",".join(instance.gpu_ids)
        if threads:
            given["OMP_NUM_THREADS"] = str(threads)
        return given

    async def _probed(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what the supervisor answers.

        Raises:
            NoAnswer: it did not, several times in a row.
        """
        for _ in range(PROBES - 1):
            try:
                return await ask()
            except NoAnswer as error:
                logger().warning("%s; asking again", error.message)
                await asyncio.sleep(PROBE_SECONDS)
        return await ask()


def _with_last_line_ended(path: Path) -> int:
    """End a line that the machine was lost in the middle of; return the size of the file."""
    with path.open("a+b") as stream:
        stream.seek(max(0, stream.tell() - 1))
        if stream.read(1) not in {b"", b"\n"}:
            stream.write(b"\n")
        return stream.tell()
