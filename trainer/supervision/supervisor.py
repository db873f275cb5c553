"""Owns a job directory: starts the trainer, watches it, retries, records how it ended. Stdlib only.

The trainer writes `status.json` while it lives, the supervisor while none lives. So a state of
rest is final only once `finished_at` is set or nobody holds the directory any more.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from trainer.contract.errors import ConfigError
from trainer.contract.events import note_event, write_held
from trainer.contract.files import append_line, read_json
from trainer.contract.gpu_locks import Held
from trainer.contract.job_directory import Control, Desired, JobDirectory, JobState, Status, utc_now
from trainer.contract.own_python import own_python
from trainer.supervision.gpu_guard import GpuGuard
from trainer.supervision.log import Echo
from trainer.supervision.notice import Notice
from trainer.supervision.process import Bell
from trainer.supervision.ranks import Ranks
from trainer.supervision.restart_decision import (
    REST_STATES,
    Ended,
    Terms,
    Verdict,
    judge,
    read_terms,
    retry_after,
    usable_divisor,
)
from trainer.supervision.watchdog import Watchdog

# Asking whether a directory is in use takes its lock for a moment; that is not an owner.
MOMENT = 0.5  # seconds


def job_terms(job: JobDirectory) -> Terms:
    """Return what the job's `job.json` says to the supervisor.

    Raises:
        ConfigError: it cannot be read, or an entry is wrong.
    """
    record = read_json(job.job)
    if record is None:
        raise ConfigError(
            f"{job.job} is missing or not a JSON object.",
            "Give the path of a job directory, the folder that holds job.json.",
        )
    return read_terms(record)


@contextmanager
def ownership(job: JobDirectory) -> Iterator[int | None]:
    """Hold the directory; yields the lock's descriptor, or None when somebody else owns it."""
    deadline = time.monotonic() + MOMENT
    while True:
        with job.owned() as lock:
            if lock is not None or time.monotonic() >= deadline:
                yield lock
                return
        time.sleep(MOMENT / 25)


def _nothing() -> None:
    """Do nothing."""


class Supervisor:
    """Brings one job to rest: completed, failed, paused or stopped.

    It must run in the main thread, for it handles signals.
    """

    def __init__(
        self,
        job: JobDirectory,
        terms: Terms,
        lock: int,
        gpus: Held,
        *,
        echo: bool = False,
        announce: Callable[[], None] = _nothing,
    ) -> None:
        """Prepare to supervise.

        Args:
            job: the directory.
            terms: what its `job.json` says.
            lock: descriptor of the directory's lock, held.
            gpus: the job's GPUs, held.
            echo: show on standard output what is appended to the log.
            announce: called once, when the first trainer's start is on record.
        """
        self._job = job
        self._terms = terms
        self._lock = lock
        self._gpus = gpus
        self._announce = announce
        self._book = _first_book(job.read_status(), terms)
        self._bell = Bell()
        self._echo = Echo(job.log, on=echo)
        self._notice = Notice(job, terms.notice)
        self._guard = GpuGuard(job, gpus, terms.grace_seconds)
        self._watchdog = Watchdog(job, terms, self._bell, self._echo, self._notice, self._guard)
        self._command = terms.command or own_python("-m", terms.module, str(job.root.resolve()))

    def run(self) -> JobState:
        """Supervise until the job is at rest; a completed job is left as it is.

        A machine that only took part begins again when the first does.
        """
        # On a machine that does not lead, COMPLETED only says that its part of an earlier attempt
        # ended well; the first machine knows whether the job did.
        if self._book.state is JobState.COMPLETED and self._terms.world.leads:
            return JobState.COMPLETED
        with self._notice, self._guard:
            return self._until_rest()

    def _until_rest(self) -> JobState:
        while True:
            # Asked before every attempt, not only the first: a stop may come while none is running.
            requested = self._requested()
            if requested.desired is not Desired.RUN:
                return self._rest(
                    Verdict(state=REST_STATES[requested.desired], reason=requested.reason)
                )
            ended = self._attempt()
            verdict = judge(ended, self._terms)
            if not self._goes_on(ended, verdict):
                return self._rest(verdict, ended)

    def _attempt(self) -> Ended:
        """Start the trainer and watch it to its end; nothing of it is left running."""
        self._job.pulse.unlink(missing_ok=True)  # of one that was killed
        with Ranks(
            self._command,
            job=self._job,
            locks=[self._lock, *self._gpus.descriptors],
            gpus=self._gpus.allocation,
            world=self._terms.world,
            stall_seconds=self._terms.stall_seconds,
        ) as trainer:
            # On record before the gate opens: from here on the trainer alone writes the status, and
            # a supervisor killed now still leaves the pids behind.
            self._book = self._job.update_status(
                state=JobState.INITIALIZING,
                pid=os.getpid(),
                trainer_pid=trainer.pid,
                attempt=self._book.attempt + 1,
                restarts=self._book.restarts,
                batch_divisor=self._book.batch_divisor,
                learning_rate_factor=self._book.learning_rate_factor,
                started_at=self._book.started_at or utc_now(),
                finished_at=None,
                exit_code=None,
                error=None,
                reason="",
            )
            # Once: the descriptor that it closes may be another file by the next attempt.
            announce, self._announce = self._announce, _nothing
            announce()
            return self._watchdog.watch(trainer)

    def _goes_on(self, ended: Ended, verdict: Verdict) -> bool:
        """Whether the trainer is started again; says in the log why it is, or what failed."""
        if verdict.error is None:
            return self._superseded(ended, verdict)
        line = f"error {type(verdict.error).__name__}: {verdict.error}".replace("\n", " ")
        # Our own trainer has said it already; one that was killed has not.
        if line not in ended.printed:
            append_line(self._job.log, line)
        # One machine cannot go on alone. What started them all restarts them all, by the status.
        if self._terms.world.nodes > 1:
            return False
        retry = retry_after(verdict.error, self._book, self._terms)
        if retry is None:
            return False
        append_line(self._job.log, retry.line)
        note_event(
            self._job,
            retry.kind,
            retry.line,
            step=ended.status.step,
            error=verdict.error.to_dict(),
            **retry.changes,
        )
        self._book = replace(self._book, **retry.changes)
        return True

    def _superseded(self, ended: Ended, verdict: Verdict) -> bool:
        """Whether the trainer obeyed a request that has been withdrawn since."""
        withdrawn = (
            verdict.state is not JobState.COMPLETED
            and ended.control_changed
            # Read again only now: between the obedience of the trainer and this line a person may
            # have pressed resume, and would wait for a job that nobody runs.
            and self._requested().desired is Desired.RUN
        )
        if withdrawn:
            append_line(self._job.log, f"{verdict.state} but wanted to run again: start")
        return withdrawn

    def _requested(self) -> Control:
        if self._bell.requests:
            return Control(desired=Desired.STOP, reason=self._bell.requests[0])
        return self._watchdog.requested()

    def _rest(self, verdict: Verdict, ended: Ended | None = None) -> JobState:
        """Record how it ended, with what this supervisor knows better than the trainer."""
        self._job.update_status(
            state=verdict.state,
            reason=verdict.reason,
            error=verdict.error.to_dict() if verdict.error else None,
            exit_code=ended.code if ended else None,
            pid=os.getpid(),
            attempt=self._book.attempt,
            restarts=self._book.restarts,
            batch_divisor=self._book.batch_divisor,
            learning_rate_factor=self._book.learning_rate_factor,
            started_at=self._book.started_at,
            finished_at=utc_now(),
            peak_rss_bytes=max(self._book.peak_rss_bytes, _peak_rss_bytes()),
        )
        # Events that found the disk full get their last chance: this process ends here.
        write_held(self._job)
        self._echo.show(patience=1.0, chunks=sys.maxsize)
        return verdict.state


def _first_book(status: Status, terms: Terms) -> Status:
    """Return the status to begin with; starting a job that was at rest allows new restarts."""
    return replace(
        status,
        # A supervisor that takes over from one that was killed finds a job in motion, and its
        # restarts keep counting; otherwise a crashing job could restart for ever.
        restarts=0 if status.state.at_rest else status.restarts,
        # The larger of both: another machine of the same job may have run out of memory first.
        batch_divisor=usable_divisor(
            terms.batch_size, max(status.batch_divisor, terms.world.batch_divisor)
        ),
        learning_rate_factor=min(status.learning_rate_factor, terms.world.learning_rate_factor),
    )


def _peak_rss_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    # getrusage(2): kilobytes on Linux, bytes on macOS.
    return peak if sys.platform == "darwin" else peak * 1024
