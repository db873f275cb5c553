"""One job directory on a machine, seen through the machine's verbs."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from blocks.machines.base import CommandResult, Machine
from blocks.models import Instance
from flows.announcing import announce
from flows.logger import logger
from flows.renting.lease import base_of
from flows.reporting import alerts
from flows.run_folder import RunFolder
from flows.setup.secrets import secrets
from flows.setup.shipping import ship
from flows.streaming.checkpoint_mirror import put_back
from trainer.config import TrainingConfig, TrainingJob
from trainer.contract.checkpoints import newest_valid
from trainer.contract.errors import ConnectionLost, MachineLost, TrainingFailed
from trainer.contract.job_directory import LEASE_EXPIRED, Desired, JobState, Status, parse_status
from trainer.contract.own_python import own_python

HOME_SECONDS = 0.5  # between two looks at status.json on this computer
AWAY_SECONDS = 1.5  # and on a machine elsewhere, where a look is a message there and back
SILENCE_SECONDS = 10.0  # without a change of status.json: check whether a process still runs there
COMMAND_SECONDS = 90.0  # for one call of the supervisor: a Python starts, on a machine that is busy
PROBES, PROBE_SECONDS = (
    3,
    5.0,
)  # questions to the supervisor, and the pause between, until one is in vain
MAX_REVIVALS = 3  # supervisors started anew after one disappeared without leaving a reason


class NoAnswer(ConnectionLost):
    """A supervisor's command line failed: what kills or starves it may spare the training."""


async def ask(
    machine: Machine, workspace: str, desired: Desired, reason: str, *, grace_seconds: float
) -> None:
    """Write what trainer and supervisor of a job directory shall do."""
    # A file, not a signal: it holds when neither of them runs yet, or when we die right after.
    request = {"desired": desired, "grace_seconds": grace_seconds, "reason": reason}
    await machine.write(f"{workspace}/control.json", json.dumps(request, indent=1).encode())


class Training(Protocol):
    """The training of one run as the flow sees it, on however many machines."""

    @property
    def instance(self) -> Instance:
        """The machine that holds the job."""

    @property
    def machine(self) -> Machine:
        """An open connection to it."""

    @property
    def workspace(self) -> str:
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
            # A sparse file: the hole takes neither time to send nor room on the machine's disk.
            size = str(_with_last_line_ended(log))
            await training.run_here("truncate", "-s", size, f"{training.workspace}/train.log")
        for records in (self._run.metrics, self._run.events):
            if records.exists():
                _with_last_line_ended(records)
                await training.machine.upload(records, f"{training.workspace}/{records.name}")
        checkpoint, _ = newest_valid(self._run.checkpoints)
        if checkpoint:
            logger().info("continuing from %s", checkpoint.name)
            await put_back(training.machine, training.workspace, checkpoint)

    def started(self) -> None:
        """Note that a supervisor was started."""
        alerts.supervisor_started(self._run)

    def running(self, status: Status) -> None:
        """Announce, once, that it trains."""
        if not self._ran:
            self._ran = True
            announce(JobState.RUNNING)
            alerts.started(self._run, status.total_steps)


class RemoteTraining:
    """The training of one run on one machine."""

    def __init__(
        self,
        job: TrainingJob,
        instance: Instance,
        machine: Machine,
        run: RunFolder,
        *,
        python: str,
        at_home: bool,
        rank: int = 0,
    ) -> None:
        """Prepare to work with it; nothing is sent yet.

        Args:
            job: what is trained.
            instance: where.
            machine: an open connection.
            run: what is kept here of the run.
            python: the machine's Python with the trainer.
            at_home: whether the machine is this computer.
            rank: of the machine, among those that train together; the first one holds the job.
        """
        self.rank = rank
        self.job = job
        self.instance = instance
        self.machine = machine
        self.workspace = instance.workspace
        self._run = run
        self._python = python
        self._at_home = at_home
        self._lead = None if rank else Lead(run)
        self.variables: dict[str, str] = {}
        """Further variables for the trainer's environment."""

    async def start_or_attach(self) -> None:
        """Start the supervisor, or follow the one that is running already."""
        is_new = await self.move_in()
        # In a folder that was used before, control.json still says pause or stop. It must not be
        # reset while somebody works there: that would undo a request of a moment ago.
        if not is_new and not (await self.examine())["alive"]:
            await self.ask(Desired.RUN, "")
        answer = await self.start()
        verb = "attached to" if answer["already_running"] else "started"
        logger().info("%s the training in %s", verb, self.workspace)

    async def start(self) -> dict[str, Any]:
        """Start the supervisor unless one is running; return what it says."""
        answer = await self._trainer("--detach")
        if self._lead and not answer["already_running"]:
            self._lead.started()
        return answer

    async def move_in(self) -> bool:
        """Fill a new job directory; `job.json` is written last, so that a torn start is redone.

        Returns:
            Whether it was new.
        """
        if await self.machine.read(f"{self.workspace}/job.json") is not None:
            return False
        config = self.job.training
        if not self._at_home:
            await self.run_here("mkdir", "-p", "--", self.workspace)
            config = await ship(self.machine, self._base(), config, logger().info)
            # On the other machines logs start anew, and the checkpoint comes when all start.
            if self._lead:
                await self._lead.take_along(self)
        await self.write("job.json", self.job_file(config))
        return True

    async def ask(self, desired: Desired, reason: str) -> None:
        """Ask trainer and supervisor to go on, to pause or to stop."""
        grace = self.job.limits.stop_grace_seconds
        await ask(self.machine, self.workspace, desired, reason, grace_seconds=grace)

    async def examine(self) -> dict[str, Any]:
        """Return status, whether anything runs there, and the sizes of log, metrics and events."""
        return await self._trainer("--status")

    async def until_rest(self) -> dict[str, Any]:
        """Wait until the job is at rest; return what `examine` says of it then.

        Raises:
            TrainingFailed: supervisor and trainer disappear again and again without a reason.
        """
        revivals = 0
        while True:
            facts = await self.until_nobody_works()
            ended = parse_status(facts)
            if ended.state.at_rest and not ended.reason.startswith(LEASE_EXPIRED):
                return facts
            revivals += 1
            if revivals > MAX_REVIVALS:
                raise TrainingFailed(
                    f"The training's supervisor on {self.instance.id} disappeared {revivals} times."
                )
            logger().warning("no process is running in %s; starting again", self.workspace)
            # Stopped because its lease ran out while we were away: nobody asked for that.
            if ended.state.at_rest:
                await self.ask(Desired.RUN, "")
            await self.start()

    async def until_nobody_works(self) -> dict[str, Any]:
        """Wait until neither supervisor nor trainer runs; return what `examine` says then."""
        look = HOME_SECONDS if self._at_home else AWAY_SECONDS
        seen: bytes | None = None
        silent, heard_at = 0.0, time.monotonic()
        while True:
            content = await self.machine.read(f"{self.workspace}/status.json")
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
        return {
            "version": 1,
            "run_id": self._run.run_id,
            "name": self.job.name,
            "config": config.model_dump(mode="json"),
            "named": {"model": training.model, "dataset": training.dataset.path},
            "limits": limits,
            "world": {"processes": self.job.processes_per_machine},
        }

    async def write(self, name: str, value: dict[str, Any]) -> None:
        """Replace a file of the job directory by a JSON object."""
        await self.machine.write(f"{self.workspace}/{name}", json.dumps(value, indent=1).encode())

    async def run_module(self, *words: str) -> CommandResult:
        """Run a module by the machine's Python that has the trainer."""
        # In a thread: a login to the Hub that runs out is renewed over the network.
        environment = await asyncio.to_thread(self._environment)
        try:
            return await self.machine.run(
                own_python("-m", *words, python=self._python),
                env=environment,
                cwd=None if self._at_home else self._base(),
                timeout=COMMAND_SECONDS,
            )
        except TimeoutError:
            raise ConnectionLost(
                f"'python -m {' '.join(words[:2])}' took over {COMMAND_SECONDS:g} s on "
                f"{self.instance.id}."
            ) from None

    async def _trainer(self, verb: str) -> dict[str, Any]:
        """Call the supervisor's command line on the machine and return the JSON it prints.

        Raises:
            NoAnswer: it did not, several times in a row.
        """
        for left in reversed(range(PROBES)):
            result = await self.run_module("trainer", verb, self.workspace)
            # The last line: a shell's profile or a library may print before it.
            with suppress(ValueError, IndexError):
                answer = json.loads(result.stdout.strip().splitlines()[-1])
                if isinstance(answer, dict):
                    return answer
            why = (
                f"'python -m trainer {verb}' ended with exit code {result.exit_code} on "
                f"{self.instance.id}: {result.stderr.strip()[-300:]}"
            )
            if left:
                logger().warning("%s; asking again", why)
                await asyncio.sleep(PROBE_SECONDS)
        raise NoAnswer(why)

    async def run_here(self, *command: str) -> None:
        """Run a short command on the machine.

        Raises:
            ConnectionLost: a signal ended it.
            MachineLost: it failed there.
        """
        result = await self.machine.run(command, timeout=COMMAND_SECONDS)
        if result.exit_code < 0:
            raise ConnectionLost(f"{command[0]} was killed on {self.instance.id}.")
        if result.exit_code:
            raise MachineLost(f"{command[0]} failed on {self.instance.id}: {result.stderr.strip()}")

    def _base(self) -> str:
        return base_of(self.instance)

    def _environment(self) -> dict[str, str]:
        """Return what the trainer finds in its environment: its GPUs, its threads, our tokens."""
        instance, threads = self.instance, self.job.resources.cpu_threads
        # Tokens go by the environment of one command, never into a file of a rented machine.
        given = {**self.variables, **({} if self._at_home else secrets())}
        # Empty for a job without GPUs, which hides them all: others may be using them.
        if instance.gpu_ids or not instance.gpu_count:
            given["CUDA_VISIBLE_DEVICES"] = ",".join(instance.gpu_ids)
        if threads:
            given["OMP_NUM_THREADS"] = str(threads)
        return given


def _with_last_line_ended(path: Path) -> int:
    """End a line that the machine was lost in the middle of; return the size of the file."""
    with path.open("a+b") as stream:
        stream.seek(max(0, stream.tell() - 1))
        if stream.read(1) not in {b"", b"\n"}:
            stream.write(b"\n")
        return stream.tell()


def parse_status_text(content: bytes | None) -> Status:
    """Return the status in the bytes of a status.json; for invalid ones, that of a new job."""
    try:
        record = json.loads(content) if content else None
    except ValueError:
        record = None
    return parse_status(record)
