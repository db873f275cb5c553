"""Watching a trainer: signs of life, requests, deadlines. Standard library only."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from trainer.contract.errors import OrchestratorError
from trainer.contract.files import append_line
from trainer.contract.job_directory import (
    LEASE_EXPIRED,
    Control,
    Desired,
    JobDirectory,
    JobState,
)
from trainer.contract.signals import ending
from trainer.supervision.gpu_guard import GpuGuard
from trainer.supervision.log import Echo
from trainer.supervision.notice import Notice
from trainer.supervision.process import Bell
from trainer.supervision.ranks import Ranks
from trainer.supervision.restart_decision import Ended, Terms

TICK = 0.25  # seconds between two looks; a child's end and a signal wake at once
KILL_AFTER = 5.0  # seconds from SIGTERM to SIGKILL once the grace is over
DUMP_SECONDS = 2.0  # at most, for a hung trainer to write its stacks
BLINK = 5.0  # seconds; when a look comes later than this, we were suspended


class Order(StrEnum):
    """What the watchdog does next."""

    WAIT = "wait"
    TERMINATE = "terminate"
    KILL = "kill"
    DUMP = "dump"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the watchdog sees at one look. Times are seconds since something; None: it is not so."""

    requests: int = 0
    """Signals to the supervisor that asked it to end."""
    initializing: bool = False
    """Whether the trainer has nothing to save yet."""
    still: float = 0.0
    """Since the last sign of life."""
    resting: float | None = None
    """Since the trainer said how it ended."""
    requested: float | None = None
    """Since a request to pause or stop was first seen."""
    grace: float = 0.0
    """How long the request lets the trainer take to save."""
    terminated: float | None = None
    """Since SIGTERM was sent."""
    kill_after: float = KILL_AFTER
    """How long after SIGTERM the trainer is killed."""


def next_order(seen: Observation, terms: Terms) -> Order:
    """Return what to do about the trainer."""
    # The order of these tests is the order of precedence. A second Ctrl-C means now.
    if seen.requests > 1:
        return Order.KILL
    if seen.terminated is not None:
        return Order.KILL if seen.terminated >= seen.kill_after else Order.WAIT
    # It has said how it ended and only has to exit, so nothing else counts, not even a stall: a
    # destructor that hangs gets the grace, and its result stands.
    if seen.resting is not None:
        return Order.KILL if seen.resting >= terms.grace_seconds else Order.WAIT
    if seen.requests:
        return Order.TERMINATE
    if seen.requested is not None:
        # The trainer obeys by itself once it trains, with a checkpoint. Before that it cannot look
        # at control.json (it is importing or loading), and there is nothing to save.
        patience = 0.0 if seen.initializing else seen.grace
        return Order.TERMINATE if seen.requested >= patience else Order.WAIT
    return Order.DUMP if seen.still >= terms.stall_seconds else Order.WAIT


class Clock:
    """Counts the seconds in which we watched: not those of a sleeping laptop or a frozen VM."""

    def __init__(self) -> None:
        self._now = 0.0
        self._read = time.monotonic()

    def now(self) -> float:
        """Return the seconds watched so far."""
        reading = time.monotonic()
        # A suspended laptop must not look like half an hour without a sign of life, nor use up the
        # grace or the lease.
        self._now += min(reading - self._read, BLINK)
        self._read = reading
        return self._now


class Stillness:
    """Measures how long some files have not changed, by our own clock alone."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen: list[tuple[int, ...] | None] | None = None
        self._since = 0.0

    def seconds(self, now: float) -> float:
        """Return the seconds since the last change that was seen."""
        # Only whether it changed, never its timestamp against our clock: the file may have been
        # touched from another machine, or by a clock that was set since.
        seen = [_signature(path) for path in self._paths]
        if seen != self._seen:
            self._seen, self._since = seen, now
        return now - self._since


@dataclass(slots=True, kw_only=True)
class _Watch:
    """What is remembered between two looks at the same trainer."""

    progress: Stillness
    printed: Stillness
    log_offset: int
    control_before: tuple[int, ...] | None
    requested: Control | None = None
    requested_at: float | None = None
    resting_at: float | None = None
    terminated_at: float | None = None
    kill_after: float = KILL_AFTER
    stalled: bool = False
    lingered: bool = False
    signalled: bool = False
    cause: OrchestratorError | None = None


class Watchdog:
    """Watches the trainers of one supervisor, one after the other."""

    def __init__(
        self,
        job: JobDirectory,
        terms: Terms,
        bell: Bell,
        echo: Echo,
        notice: Notice,
        guard: GpuGuard,
    ) -> None:
        self._job = job
        self._terms = terms
        self._bell = bell
        self._echo = echo
        self._notice = notice
        self._guard = guard
        self._clock = Clock()
        self._lease = Stillness(job.lease)

    def watch(self, trainer: Ranks) -> Ended:
        """Release the trainer and wait for its end; bring it about when it is due."""
        job = self._job
        watch = _Watch(
            progress=Stillness(job.metrics, job.status, job.pulse),
            printed=Stillness(job.log),
            # Taken before the gate opens, so that nothing this trainer prints or obeys is missed.
            log_offset=_size(job.log),
            control_before=_signature(job.control),
        )
        trainer.release()
        while (code := trainer.poll()) is None:
            self._obey(next_order(self._look(watch), self._terms), trainer, watch)
            self._notice.look()
            if watch.cause is None and (cause := self._guard.look(trainer.pid)):
                watch.cause, watch.signalled = cause, True
                trainer.signal_group(signal.SIGKILL)
            self._echo.show()
            self._bell.wait(TICK)
        # The rank that gave up waiting has ended; the one that did not come still lives, and only
        # its stacks say why. Leaving the context kills it.
        if trainer.one_hangs:
            self._dump_stacks(trainer, "a process waited in vain for another; where that hangs:")
        ended = Ended(
            code=code,
            status=trainer.status(),
            requested=self._in_force(watch),
            control_changed=_signature(job.control) != watch.control_before,
            terminated=watch.signalled,
            lingered=watch.lingered,
            stalled=watch.stalled,
            who=trainer.who,
            local_rank=trainer.local_rank,
            several=trainer.several,
            cause=watch.cause,
            printed=trainer.printed(watch.log_offset),
        )
        return self._guard.diagnose(ended)

    def requested(self) -> Control:
        """Return what is wanted now, after asking for an end ourselves where one is due."""
        control = self._job.read_control()
        due = self._due()
        if control.desired is not Desired.RUN or not due:
            return control
        stop = Control(desired=Desired.STOP, grace_seconds=self._terms.grace_seconds, reason=due)
        try:
            # Written down rather than signalled: the trainer then saves as for any other stop, and
            # a later start does not simply begin again.
            self._job.request(stop.desired, grace_seconds=stop.grace_seconds, reason=stop.reason)
        except OSError:
            # The disk is full, so the trainer cannot read the request. Without grace it is
            # signalled at once, which asks for the same.
            return replace(stop, grace_seconds=0.0)
        return stop

    def _due(self) -> str:
        """Return why the job must end now, or nothing."""
        now = self._clock.now()
        # The lease is touched over the network by an orchestrator whose clock is not ours: its
        # content is a duration, and we count it from when we saw it change.
        unrenewed = self._lease.seconds(now)
        term = _seconds_in(self._job.lease)
        if 0 < term <= unrenewed:
            return f"{LEASE_EXPIRED}: nobody renewed it for {term:g} seconds"
        if now >= self._terms.max_runtime_seconds:
            return "max_runtime_minutes reached"
        return ""

    def _look(self, watch: _Watch) -> Observation:
        control = self.requested()
        now = self._clock.now()
        if control.desired is Desired.RUN:
            # Withdrawn in time: the grace starts again if it is requested once more. But
            # `requested` stays, since the trainer may have obeyed already.
            watch.requested_at = None
        else:
            watch.requested = control
            watch.requested_at = now if watch.requested_at is None else watch.requested_at
        # The trainer may write its last status and take a while to exit, or never exit.
        state = self._job.read_status().state
        if not state.at_rest:
            watch.resting_at = None
        elif watch.resting_at is None:
            watch.resting_at = now
        return Observation(
            requests=len(self._bell.requests),
            initializing=state is JobState.INITIALIZING,
            still=self._still(watch, now),
            resting=_since(watch.resting_at, now),
            requested=_since(watch.requested_at, now),
            grace=max(0.0, control.grace_seconds),
            terminated=_since(watch.terminated_at, now),
            kill_after=watch.kill_after,
        )

    def _still(self, watch: _Watch, now: float) -> float:
        """Return the seconds without a sign of life; while it trains, printing is not one."""
        progress, printed = watch.progress.seconds(now), watch.printed.seconds(now)
        # Loading a model or merging one prints but trains nothing, so there a line counts as life.
        return progress if self._job.pulse.exists() else min(progress, printed)

    def _obey(self, order: Order, trainer: Ranks, watch: _Watch) -> None:
        match order:
            case Order.WAIT:
                return
            case Order.TERMINATE:
                watch.terminated_at = self._clock.now()
                if self._bell.requests:
                    # The signal is the request, so the grace begins now. The ranks alone get it: to
                    # save, they need the processes that they started.
                    watch.kill_after = self._terms.grace_seconds
                    trainer.signal(ending())
                else:
                    # The grace is over, or there was nothing to save: everything is to end.
                    trainer.signal_group(ending())
            case Order.KILL:
                watch.lingered = watch.resting_at is not None
                trainer.signal_group(signal.SIGKILL)
            case Order.DUMP:
                watch.stalled = True
                minutes = self._terms.stall_seconds / 60
                self._dump_stacks(
                    trainer, f"no sign of life for {minutes:g} minutes; where it hangs:"
                )
                trainer.signal_group(signal.SIGKILL)
        watch.signalled = True

    def _dump_stacks(self, trainer: Ranks, why: str) -> None:
        """Make a hung trainer write where it hangs; its faulthandler listens to SIGUSR1."""
        append_line(self._job.log, why)
        log, before = Stillness(self._job.log), _size(self._job.log)
        # faulthandler writes from a C signal handler, so it works even while the interpreter is
        # stuck in an extension, where a Python handler would never run.
        trainer.signal(signal.SIGUSR1)
        deadline = time.monotonic() + DUMP_SECONDS
        while trainer.live() and (now := time.monotonic()) < deadline:
            # Something was written, and for a tick nothing more: the stacks are complete. The rest
            # of the deadline need not be waited for.
            if log.seconds(now) > TICK and _size(self._job.log) > before:
                return
            self._bell.wait(TICK / 5)

    def _in_force(self, watch: _Watch) -> Control | None:
        """Return the request that the trainer obeyed or was made to obey, even if withdrawn."""
        self._look(watch)  # the last one may have come after our last look
        if watch.requested is None and self._bell.requests:
            return Control(desired=Desired.STOP, reason=self._bell.requests[0])
        return watch.requested


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # The inode too: an atomic replacement may keep size and, on coarse clocks, the time.
    return found.st_size, found.st_mtime_ns, found.st_ino


def _size(path: Path) -> int:
    return (_signature(path) or (0,))[0]


def _since(then: float | None, now: float) -> float | None:
    return None if then is None else now - then


def _seconds_in(lease: Path) -> float:
    """Return the number of seconds in the lease; 0 when there is no lease."""
    try:
        return float(lease.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0.0
