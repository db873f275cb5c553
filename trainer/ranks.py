"""The processes that train one job together on this machine. Standard library only.

`job.json` tells of them in its entry `world`:

    processes      of all machines together, as many on each
    nodes          how many machines there are
    node_rank      which of them this one is, from 0
    master_addr    where the processes meet: an address of the first machine
    master_port    its port; with one machine any free one is taken
    batch_divisor, learning_rate_factor    as in the status, for all machines alike

Each process finds RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT in
its environment, as torch has it. All are of one process group, so nothing of them can be left
running. The first on a machine owns the job directory's status and writes into its log; what the
others say on standard error goes to the log too, with their rank before every line.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trainer.errors import ConfigError, OrchestratorError, PeerLost, TrainingStalled, from_dict
from trainer.files import read_json, replace_json
from trainer.job_directory import JobDirectory, JobState, Status
from trainer.log import append_line, last_lines
from trainer.network import free_port
from trainer.process import Trainer

HERE = "127.0.0.1"
TIMEOUT_VARIABLE = "TRAINER_COLLECTIVE_SECONDS"
TIMEOUT_SHARE = 0.75  # of the stall timeout: a rank that hangs is an error before it is a stall
SETTLE_SECONDS = 2.0  # in which the rank that made the others fail ends too
LEAVE_SECONDS = 30.0  # for the others to end when the first has ended well
CHUNK = 1 << 20  # bytes of another rank's output that are taken over at one look


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Who trains together; see the top of this file."""

    processes: int = 1
    nodes: int = 1
    node_rank: int = 0
    master_addr: str = HERE
    master_port: int = 0
    """0: any that is free."""
    batch_divisor: int = 1
    """What the batch size is divided by at least: memory ran out on one of the machines."""
    learning_rate_factor: float = 1.0
    """What the learning rate is multiplied by at most: the loss was no number once."""

    @property
    def leads(self) -> bool:
        """Whether this machine tells how the job stands; the others take part."""
        return self.node_rank == 0

    @property
    def processes_here(self) -> int:
        """How many processes this machine runs."""
        return self.processes // self.nodes

    def rank_of(self, local_rank: int) -> int:
        """Return the rank among all processes of one on this machine."""
        return self.node_rank * self.processes_here + local_rank

    def variables(self, local_rank: int, port: int, stall_seconds: float) -> dict[str, str]:
        """Return what one process finds in its environment; nothing where it is alone.

        Args:
            local_rank: which process it is on this machine.
            port: where all meet.
            stall_seconds: after which without a sign of life the job counts as stalled.
        """
        if self.processes == 1:
            return {}
        timeout = max(1, int(TIMEOUT_SHARE * stall_seconds))
        defaults = {
            "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self.processes_here)),
            "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",  # a collective that hangs ends its process
            "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": str(timeout),
            **_loopback(self),
        }
        return {
            **{name: value for name, value in defaults.items() if name not in os.environ},
            "RANK": str(self.rank_of(local_rank)),
            "WORLD_SIZE": str(self.processes),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(self.processes_here),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(port),
            TIMEOUT_VARIABLE: str(timeout),
        }


ALONE = World()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """Which of the processes this one is."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it writes what the job leaves: metrics, checkpoints, output."""
        return self.rank == 0

    @property
    def on_several_machines(self) -> bool:
        """Whether other processes have another disk."""
        return self.world_size > self.local_world_size

    @property
    def on_first_machine(self) -> bool:
        """Whether the checkpoints that were saved are on its disk."""
        return self.rank < self.local_world_size

    @property
    def is_first_here(self) -> bool:
        """Whether it writes the status of this machine's job directory."""
        return self.local_rank == 0


def own_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return which process this is, by its environment."""
    names = ("rank", "world_size", "local_rank", "local_world_size")
    return Rank(
        **{name: int(environment[v]) for name in names if (v := name.upper()) in environment}
    )


def read_world(record: Mapping[str, Any]) -> World:
    """Return the entry `world` of a `job.json`; without one, this process alone.

    Raises:
        ConfigError: naming what is not as it should be.
    """
    entry = record.get("world", {})
    if not isinstance(entry, dict):
        raise ConfigError(f"job.json: world is {entry!r}, not a mapping of names to values.")
    numbers = {"processes": 1, "nodes": 1, "node_rank": 0, "master_port": 0, "batch_divisor": 1}
    found: dict[str, int] = {}
    for name, least in numbers.items():
        value = found[name] = entry.get(name, least)
        if type(value) is not int or value < least:
            raise ConfigError(f"job.json: world.{name} is {value!r}, not a number from {least} up.")
    factor = entry.get("learning_rate_factor", 1.0)
    if not isinstance(factor, int | float) or not 0 < factor <= 1:
        raise ConfigError(
            f"job.json: world.learning_rate_factor is {factor!r}, not a number up to 1."
        )
    world = World(
        **found,
        master_addr=str(entry.get("master_addr", HERE)),
        learning_rate_factor=float(factor),
    )
    if world.processes % world.nodes:
        raise ConfigError(
            f"job.json: world.processes is {world.processes}, which {world.nodes} machines cannot "
            "share evenly."
        )
    if world.node_rank >= world.nodes:
        raise ConfigError(
            f"job.json: world.node_rank is {world.node_rank}, and of {world.nodes} machines the "
            f"last is {world.nodes - 1}."
        )
    if world.nodes > 1 and not world.master_port:
        raise ConfigError("job.json: world.master_port is missing: several machines meet there.")
    return world


def record_failure(job: JobDirectory, rank: Rank, error: OrchestratorError) -> None:
    """Say what this process failed with, for the supervisor to find out who was the first."""
    job.ranks.mkdir(exist_ok=True)
    # The monotonic clock is the same in all processes of a machine.
    record = {"error": error.to_dict(), "at": time.monotonic()}
    replace_json(_record(job, rank.local_rank), record, durable=False)


class Ranks:
    """The processes of this machine, to be watched as if they were one.

    They end as one, too: the first that fails takes the others with it, and its end is theirs.
    Leaving the context ends every process of their group.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        job: JobDirectory,
        lock: int,
        world: World,
        stall_seconds: float,
    ) -> None:
        """Prepare to start them.

        Args:
            command: the program and its arguments.
            job: the job directory.
            lock: descriptor of its lock, held.
            world: who trains together.
            stall_seconds: see `World.variables`.
        """
        self._command = command
        self._job = job
        self._lock = lock
        self._world = world
        self._stall_seconds = stall_seconds
        self._trainers: list[Trainer] = []
        self._stack = ExitStack()
        self._offsets = [0] * world.processes_here
        self._failed_at: float | None = None
        self._left_at: float | None = None
        self._culprit = 0
        self.code: int | None = None

    def __enter__(self) -> Self:
        """Start all behind their gates."""
        shutil.rmtree(self._job.ranks, ignore_errors=True)
        if self._world.processes_here > 1:
            self._job.ranks.mkdir()
            for local_rank in range(1, self._world.processes_here):
                self._log(local_rank).touch()
        port = self._world.master_port or free_port()
        with ExitStack() as stack:
            for local_rank in range(self._world.processes_here):
                trainer = Trainer(
                    self._command,
                    log=self._log(local_rank),
                    lock=self._lock,
                    group=self._trainers[0].pid if self._trainers else 0,
                    variables=self._world.variables(local_rank, port, self._stall_seconds),
                    silent=local_rank > 0,
                )
                self._trainers.append(stack.enter_context(trainer))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()
        self._take_over(to_the_end=True)

    @property
    def pid(self) -> int:
        """The first one's process id, which is that of the group."""
        return self._trainers[0].pid

    def release(self) -> None:
        """Open the gates."""
        for trainer in self._trainers:
            trainer.release()

    def signal(self, number: int) -> None:
        """Send a signal to every one of them, but not to what they started."""
        for trainer in self._trainers:
            trainer.signal(number)

    def signal_group(self, number: int) -> None:
        """Send a signal to them and every process that they started."""
        self._trainers[0].signal_group(number)

    def poll(self) -> int | None:
        """Return the exit code of all: of the one that failed first, or 0; None while they live."""
        if self.code is None:
            self._take_over()
            self.code = self._common_code([trainer.poll() for trainer in self._trainers])
        return self.code

    def status(self) -> Status:
        """Return what the one whose end counts recorded of it."""
        status = self._job.read_status()
        if not self._culprit and self._failure(0) is None:
            return status
        error = self._failure(self._culprit)
        if error is None:  # it had no time to say so; what the first wrote is of another end
            return replace(status, state=JobState.RUNNING, error=None)
        error = type(error)(f"On {self.who}: {error.message}", error.suggestion)
        return replace(status, state=JobState.FAILED, error=error.to_dict())

    @property
    def who(self) -> str:
        """Whose end counts, in words."""
        alone = self._world.processes == 1
        return "the trainer" if alone else f"rank {self._world.rank_of(self._culprit)}"

    def printed(self, offset: int) -> tuple[str, ...]:
        """Return the last lines of the one whose end counts; `offset` is where the log was."""
        return last_lines(self._log(self._culprit), 0 if self._culprit else offset)

    # Who was it ------------------------------------------------------------------------------

    def _common_code(self, codes: list[int | None]) -> int | None:
        failed = [n for n, code in enumerate(codes) if code]
        if codes[0] == 0:  # all had agreed on this end, and it is on record
            now = time.monotonic()
            self._left_at = self._left_at or now
            over = None not in codes or now - self._left_at >= LEAVE_SECONDS
            return 0 if over else None
        return self._code_of_first(failed, codes) if failed else None

    def _code_of_first(self, failed: list[int], codes: list[int | None]) -> int | None:
        """Return the code of the one that failed first, once that is certain."""
        now = time.monotonic()
        self._failed_at = self._failed_at or now
        first = min(failed, key=self._order)
        follows = isinstance(self._failure(first), PeerLost)
        if follows and None in codes and now - self._failed_at < SETTLE_SECONDS:
            return None  # it lost another, which is about to end
        self._culprit = first
        return codes[first]

    def _order(self, local_rank: int) -> tuple[bool, float]:
        """Return what sorts the first failure before those that follow from it."""
        record = read_json(_record(self._job, local_rank)) or {}
        return isinstance(self._failure(local_rank), PeerLost), float(record.get("at", 0.0))

    def _failure(self, local_rank: int) -> OrchestratorError | None:
        record = read_json(_record(self._job, local_rank)) or {}
        return from_dict(record["error"]) if isinstance(record.get("error"), dict) else None

    @property
    def one_hangs(self) -> bool:
        """Whether one ended for it waited in vain for another, which still lives."""
        return self.live() and isinstance(self._failure(self._culprit), TrainingStalled)

    def live(self) -> bool:
        """Whether any of them does."""
        self._take_over()
        return None in [trainer.poll() for trainer in self._trainers]

    # What the others say ---------------------------------------------------------------------

    def _log(self, local_rank: int) -> Path:
        return self._job.ranks / f"{local_rank}.log" if local_rank else self._job.log

    def _take_over(self, *, to_the_end: bool = False) -> None:
        """Append to the log what the other ranks said meanwhile."""
        for local_rank in range(1, len(self._trainers)):
            lines = list(self._new_lines(local_rank, to_the_end=to_the_end))
            if lines:
                append_line(self._job.log, "\n".join(lines))

    def _new_lines(self, local_rank: int, *, to_the_end: bool) -> Iterator[str]:
        with self._log(local_rank).open("rb") as stream:
            stream.seek(self._offsets[local_rank])
            content = stream.read(-1 if to_the_end else CHUNK)
        whole = (
            content if to_the_end or len(content) == CHUNK else content[: content.rfind(b"\n") + 1]
        )
        self._offsets[local_rank] += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            yield f"[rank {self._world.rank_of(local_rank)}] {line}"


def _record(job: JobDirectory, local_rank: int) -> Path:
    return job.ranks / f"{local_rank}.json"


def _loopback(world: World) -> dict[str, str]:
    """Return by which network gloo goes: within one machine none that a name must lead to."""
    return {"GLOO_SOCKET_IFNAME": "lo"} if world.nodes == 1 and sys.platform == "linux" else {}
