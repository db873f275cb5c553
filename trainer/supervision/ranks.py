"""The processes that train one job together on this machine. Standard library only.

All belong to one process group, so none can be left running. The first on a machine owns
the job directory's status and writes into its log; what the others say on standard error goes to
the log too, with their rank before every line. `trainer.contract.world` says who they are.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self

from trainer.contract.errors import (
    OrchestratorError,
    PeerLost,
    TrainingStalled,
    from_dict,
)
from trainer.contract.files import append_line, read_json, replace_json
from trainer.contract.gpu_locks import Allocation
from trainer.contract.job_directory import JobDirectory, JobState, Status
from trainer.contract.tail import TailReader
from trainer.contract.world import Rank, World
from trainer.supervision.log import last_lines
from trainer.supervision.network import free_port
from trainer.supervision.process import TrainerProcess

SETTLE_SECONDS = 2.0  # in which the rank that made the others fail ends too
LEAVE_SECONDS = 30.0  # for the others to end when the first has ended well


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
        locks: Sequence[int],
        gpus: Allocation,
        world: World,
        stall_seconds: float,
    ) -> None:
        """Prepare to start them.

        Args:
            command: the program and its arguments.
            job: the job directory.
            locks: descriptors of the locks that they hold too.
            gpus: what they see, where GPUs are named.
            world: who trains together.
            stall_seconds: see `World.variables`.
        """
        self._command = command
        self._job = job
        self._locks = locks
        self._gpus = gpus
        self._world = world
        self._stall_seconds = stall_seconds
        self._trainers: list[TrainerProcess] = []
        self._stack = ExitStack()
        self._tails = [TailReader(self._log(n)) for n in range(world.processes_here)]
        self._failed_at: float | None = None
        self._left_at: float | None = None
        self._culprit = 0
        self.code: int | None = None

    def __enter__(self) -> Self:
        """Start all behind their gates."""
        # What an earlier attempt failed with must not be taken for this one's.
        shutil.rmtree(self._job.ranks, ignore_errors=True)
        if self._world.processes_here > 1:
            self._job.ranks.mkdir()
            for local_rank in range(1, self._world.processes_here):
                self._log(local_rank).touch()
        # Chosen anew at every start: an earlier attempt's port may still be in TIME_WAIT.
        port = self._world.master_port or free_port()
        with ExitStack() as stack:
            for local_rank in range(self._world.processes_here):
                trainer = TrainerProcess(
                    self._command,
                    log=self._log(local_rank),
                    locks=self._locks,
                    # The first leads the group, and the others join it while they wait at their
                    # gates.
                    group=self._trainers[0].pid if self._trainers else 0,
                    variables={
                        **self._gpus.variables,
                        **self._world.variables(local_rank, port, self._stall_seconds),
                    },
                    # All ranks print the same; one voice is enough. Their standard error is kept.
                    silent=local_rank > 0,
                )
                self._trainers.append(stack.enter_context(trainer))
            # Only now: if a later one cannot be forked, the inner stack ends those that were.
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
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
        # Rank 0 writes the status itself, so there is nothing to correct.
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

    @property
    def local_rank(self) -> int:
        """Whose end counts, by its number on this machine."""
        return self._culprit

    @property
    def several(self) -> bool:
        """Whether there are several of them."""
        return len(self._trainers) > 1

    def printed(self, offset: int) -> tuple[str, ...]:
        """Return the last lines of the one whose end counts; `offset` is where the log was."""
        return last_lines(self._log(self._culprit), 0 if self._culprit else offset)

    # Who was it ------------------------------------------------------------------------------

    def _common_code(self, codes: list[int | None]) -> int | None:
        failed = [n for n, code in enumerate(codes) if code]
        # Ranks agree on an end before any of them acts on it, and rank 0 has recorded it. What the
        # others do afterwards (a hanging destructor, say) must not turn it into a failure.
        if codes[0] == 0:
            now = time.monotonic()
            self._left_at = self._left_at or now
            over = None not in codes or now - self._left_at >= LEAVE_SECONDS
            return 0 if over else None
        return self._code_of_first(failed, codes) if failed else None

    def _code_of_first(self, failed: list[int], codes: list[int | None]) -> int | None:
        """Return the code of the one that failed first, once that is certain."""
        now = time.monotonic()
        self._failed_at = self._failed_at or now
        # Losing a peer is a consequence, so it sorts last; among causes the earliest counts.
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
            tail, who = self._tails[local_rank], f"[rank {self._world.rank_of(local_rank)}]"
            # One chunk per look while they live, so that a rank that floods its log cannot keep the
            # watchdog from looking at the others.
            for said in tail.chunks(rest=True) if to_the_end else [tail.read()]:
                lines = b"".join(said).decode(errors="replace").splitlines()
                if lines:
                    append_line(self._job.log, "\n".join(f"{who} {line}" for line in lines))


def _record(job: JobDirectory, local_rank: int) -> Path:
    return job.ranks / f"{local_rank}.json"
