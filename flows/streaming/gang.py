"""The training of a job on several machines: started, watched and brought to rest as one.

The first machine holds the job: its log, metrics, checkpoints and output are the job's, and
requests to pause or stop go there. The others take part while it trains. When the trainer of one
fails, the rest wait for it in vain, so all are stopped, and start again from the newest
checkpoint; no machine retries by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from blocks.models import Instance
from blocks.providers.base import Provider
from blocks.task_scope import TaskScope, all_of
from blocks.workplaces.base import Workplace
from flows.logger import logger
from flows.renting.journal import Journal
from flows.renting.liveness import in_contact
from flows.run_folder import RunFolder
from flows.streaming.checkpoint_mirror import CheckpointMirror
from flows.streaming.file_mirror import mirror_file, until_size
from flows.streaming.nodes import (
    Node,
    call,
    continue_from,
    error_of,
    join,
    look,
    network,
    takes_part,
)
from flows.streaming.training import RemoteTraining
from trainer.config import TrainingJob
from trainer.contract.checkpoints import newest_valid
from trainer.contract.errors import (
    Action,
    CheckpointDamaged,
    ConfigError,
    MachineLost,
    OrchestratorError,
    PeerLost,
    TrainingFailed,
)
from trainer.contract.job_directory import Desired, JobState, Status, parse_status
from trainer.supervision.restart_decision import REST_STATES, read_terms, retry_after

PATIENCE_SECONDS = 10.0  # for the others to end by themselves once one has failed
END_SECONDS = 60.0  # and once the first has ended: they have nothing left to do
SYNC_SECONDS = 60.0  # for its newest checkpoint to come home when another machine is lost
MEET_SECONDS = 20.0  # for all machines to get to where the trainers meet

T = TypeVar("T")


class GangTraining:
    """The training of one run on several machines; see `flows.streaming.training.Training`."""

    def __init__(
        self,
        job: TrainingJob,
        workplace: Workplace,
        run: RunFolder,
        nodes: Sequence[Node],
        provider: Provider,
        *,
        journal: Journal,
        mirror: CheckpointMirror,
    ) -> None:
        """Prepare to speak with it.

        Args:
            job: what is trained.
            workplace: the job directory on the first machine.
            run: what is kept here of the run.
            nodes: all machines, by rank.
            provider: where they come from.
            journal: the run's.
            mirror: brings the first machine's checkpoints home.
        """
        self._job = job
        self._run = run
        self._nodes = nodes
        self._provider = provider
        self._journal = journal
        self._mirror = mirror
        self._wished: tuple[Desired, str] | None = None
        # The caller keeps the first one's connection open; the others are connected to when needed.
        self._first = self._training(nodes[0], workplace)
        hire = journal.of_instance(self.instance)
        if hire is None:
            raise KeyError(f"the journal has no row for {self.instance.id}")
        self._hire = hire

    @property
    def instance(self) -> Instance:
        """The first machine."""
        return self._first.instance

    @property
    def workplace(self) -> Workplace:
        """The job directory there."""
        return self._first.workplace

    async def ask(self, desired: Desired, reason: str) -> None:
        """Write the request on the first machine; the trainers agree among themselves."""
        # Noted before it is written: the training may end by it before the write returns.
        self._wished = None if desired is Desired.RUN else (desired, reason)
        await self._first.ask(desired, reason)

    async def start_or_attach(self) -> None:
        """Follow the training if it is running on all machines; otherwise start it on all."""
        first, *others = await self._on_all(look)
        if first and first["alive"] and all(map(takes_part, others)):
            logger().info("attached to the training on %d machines", len(self._nodes))
            return
        if first and not first["alive"] and parse_status(first).state is JobState.COMPLETED:
            return
        # One that trains alone waits for its peers in a collective, and can neither save nor end
        # by itself. Stop it before anything is put into its folder.
        await self._stop_all("it was not running on all machines")
        await self._on_all(RemoteTraining.move_in)
        await self._start_all()

    async def until_rest(self) -> dict[str, Any]:
        """Wait until the job is at rest on all machines, starting all again where that helps.

        Raises:
            MachineLost: one of them is gone for certain.
        """
        while True:
            try:
                ended = await self._until_all_rest()
            except MachineLost:  # the first may be well, and have saved a moment ago
                with suppress(OrchestratorError, TimeoutError):
                    async with asyncio.timeout(SYNC_SECONDS):
                        await self._mirror.sync()
                raise
            first = parse_status(ended[0])
            if first.state is JobState.COMPLETED or not (failure := self._failure(ended)):
                return ended[0]
            rank, error = failure
            if self._wished and error.action is Action.RETRY:  # it is retried when it goes on
                desired, reason = self._wished
                return {**ended[0], "state": REST_STATES[desired], "reason": reason, "error": None}
            retry = retry_after(
                error, self._book(), read_terms(self._first.job_file(self._job.training))
            )
            if retry is None:
                return {**ended[0], "state": JobState.FAILED, "error": self._told(rank, error)}
            logger().warning("machine %d: %s", rank, retry.line)
            # Saved before the start, so that a flow that dies in between counts this retry too.
            self._hire.retries |= retry.changes
            self._journal.save()
            await self._start_all(anew=isinstance(error, CheckpointDamaged))

    # Starting ---------------------------------------------------------------------------------

    async def _start_all(self, *, anew: bool = False) -> None:
        """Bring all machines to the newest checkpoint that is at home, and start the trainers.

        Args:
            anew: bring it there though the machines say that they have it: it was found damaged.
        """
        # Home first: every machine must start from the same step, and only checkpoints at home
        # are known to be whole.
        await self._mirror.sync()
        checkpoint, _ = newest_valid(self._run.checkpoints)
        count = len(self._nodes)
        sizes = {"nodes": count, "processes": count * self._job.processes_per_machine}

        async def continue_there(training: RemoteTraining) -> None:
            await continue_from(training, checkpoint, sizes, anew=anew)

        await self._on_all(continue_there)
        meeting, interfaces = await self._meet()
        world = {**sizes, **meeting}
        self._wished = None

        async def start(training: RemoteTraining) -> None:
            # Without these, a container's bridge may be chosen, which no other machine reaches.
            # "=" makes NCCL take the exact name; otherwise eth1 would match eth10 as well:
            # https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/env.html
            if interface := interfaces[training.rank]:
                training.variables = {
                    "GLOO_SOCKET_IFNAME": interface,
                    "NCCL_SOCKET_IFNAME": f"={interface}",
                }
            resume = checkpoint.name if checkpoint else None
            await join(training, {**world, "node_rank": training.rank}, resume)
            await training.start()

        await self._on_all(start)
        where = checkpoint.name if checkpoint else "the beginning"
        logger().info("started the training on %d machines from %s", len(self._nodes), where)

    async def _meet(self) -> tuple[dict[str, Any], list[str]]:
        """Check that every machine reaches the place where the trainers meet.

        Returns:
            What all trainers have to know of it, and the network interface of each, by rank; empty
            where a machine does not report one.

        Raises:
            ConfigError: a machine does not reach the first.
        """
        # Checked here in seconds: torch would wait for its peers for minutes, and then report a
        # timeout without naming the machine.
        count, address = len(self._nodes), self._nodes[0].address
        port = str((await network(self._first, "port"))["port"])

        async def arrive(training: RemoteTraining) -> str:
            try:
                answer = await network(training, "reach", address, port, f"{MEET_SECONDS:g}")
            except OrchestratorError as error:
                raise ConfigError(
                    f"Machine {training.rank} ({training.instance.id}) does not reach the first at "
                    f"{address}, port {port}: {error.message}",
                    "Allow TCP connections between the machines. For ssh, set the address by which "
                    "the others reach a host in private_addresses of its block.",
                ) from error
            return str(answer.get("interface") or "")

        async with TaskScope() as scope:
            patience = f"{MEET_SECONDS:g}"
            # The port is open only while this listens; the trainers bind it afterwards.
            scope.start(call(self._first, "listen", port, str(count), patience))
            interfaces = await self._on_all(arrive)
        book = self._book()
        world = {
            "master_addr": address,
            "master_port": int(port),
            "batch_divisor": book.batch_divisor,
            "learning_rate_factor": book.learning_rate_factor,
        }
        return world, interfaces

    # Ending -----------------------------------------------------------------------------------

    async def _until_all_rest(self) -> list[dict[str, Any]]:
        """Return what each machine reports once none of them works any more, by rank.

        When the first has ended, the others have nothing left to do; when another has failed,
        none of them can go on.
        """
        async with TaskScope() as scope:
            resting = [scope.start(self._at(node, self._ended)) for node in self._nodes]
            first, *others = resting
            pending: set[asyncio.Task[dict[str, Any]]] = set(resting)
            while pending and not first.done() and not any(map(_has_failed, others)):
                done, pending = await asyncio.wait(pending, return_when="FIRST_COMPLETED")
                for task in done:
                    task.result()  # raises MachineLost here, and not only when all have ended
            patience = END_SECONDS if first.done() and not _has_failed(first) else PATIENCE_SECONDS
            if pending:
                _, pending = await asyncio.wait(pending, timeout=patience)
            if pending:
                await self._stop_all("the training ended on another machine")
            return await asyncio.gather(*resting)  # all have ended: this keeps their order

    async def _ended(self, training: RemoteTraining) -> dict[str, Any]:
        """Wait until nothing runs on a machine; the log of one beside the first comes home."""
        if training is self._first:  # its log is mirrored by the flow, which outlives a restart
            return await training.until_nobody_works()
        log = self._run.node_log(self._hire.attempt, training.rank)
        async with TaskScope() as scope:
            scope.start(mirror_file(training.workplace, "train.log", log))
            facts = await training.until_nobody_works()
            await until_size(log, facts.get("train_bytes"))
        return facts

    async def _stop_all(self, reason: str) -> None:
        """End every trainer at once: none can save without the others."""

        async def stop(training: RemoteTraining) -> None:
            facts = await look(training)
            if facts and facts["alive"]:
                await training.workplace.ask(Desired.STOP, reason, grace_seconds=0.0)
                await training.until_nobody_works()

        await self._on_all(stop)

    # Judging ----------------------------------------------------------------------------------

    def _failure(self, ended: Sequence[dict[str, Any]]) -> tuple[int, OrchestratorError] | None:
        """Return why the training does not go on, and on which machine; None: it was asked to.

        A trainer whose peer went away fails too, so an error that has a name comes before one
        that has none, and the one that says no more than that a peer was lost comes last.
        """
        failures = [(rank, error) for rank, facts in enumerate(ended) if (error := error_of(facts))]
        return min(failures, key=_suspicion, default=None)

    def _book(self) -> Status:
        """Return what was changed for the starts after the first."""
        # From the journal and not from a status.json: a machine's own is gone with the machine.
        return Status(**self._hire.retries)

    def _told(self, rank: int, error: OrchestratorError) -> dict[str, str]:
        """Return the error of a machine as the job's, naming the machine and its log."""
        if rank == 0:
            return error.to_dict()
        instance = self._nodes[rank].instance
        log = self._run.node_log(self._hire.attempt, rank)
        message = f"Machine {rank} ({instance.id}): {error.message}"
        return {
            **error.to_dict(),
            "message": message,
            "suggestion": f"{error.suggestion} Its log: {log}",
        }

    async def _on_all(self, work: Callable[[RemoteTraining], Coroutine[Any, Any, T]]) -> list[T]:
        """Return what `work` returns of the training on each machine, by rank."""
        return await all_of(self._at(node, work) for node in self._nodes)

    async def _at(self, node: Node, work: Callable[[RemoteTraining], Coroutine[Any, Any, T]]) -> T:
        """Return what `work` returns of the training on one of the machines."""
        if node.rank == 0:
            return await work(self._first)

        async def reached(workplace: Workplace) -> T:
            return await work(self._training(node, workplace))

        return await in_contact(self._job, self._provider, node.instance, self._journal, reached)

    def _training(self, node: Node, workplace: Workplace) -> RemoteTraining:
        return RemoteTraining(
            self._job,
            node.instance,
            workplace,
            self._run,
            python=node.python,
            rank=node.rank,
        )


def _has_failed(ended: asyncio.Task[dict[str, Any]]) -> bool:
    return ended.done() and error_of(ended.result()) is not None


def _suspicion(failure: tuple[int, OrchestratorError]) -> int:
    """Return what sorts the failures that have a cause of their own before those that follow."""
    match failure[1]:
        case PeerLost():
            return 2
        case TrainingFailed():
            return 1
        case _:
            return 0
