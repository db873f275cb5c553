"""What the end of a trainer means, and what follows from it. Pure functions, stdlib only."""

from __future__ import annotations

import math
import signal
from dataclasses import dataclass
from typing import Any

from trainer.contract.errors import (
    Action,
    ConfigError,
    OrchestratorError,
    OutOfMemory,
    TrainerKilled,
    TrainingDiverged,
    TrainingFailed,
    TrainingStalled,
    from_dict,
)
from trainer.contract.events import Kind
from trainer.contract.job_directory import Control, Desired, JobState, Status
from trainer.contract.world import ALONE, World, read_world

OWN_TRAINER = "trainer.training.train"
LOWER_RATE = 0.5  # factor on the learning rate after the loss was NaN or infinite
MAX_QUOTE = 300  # characters of the log in an error's sentence
REST_STATES = {Desired.PAUSE: JobState.PAUSED, Desired.STOP: JobState.STOPPED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What `job.json` says to the supervisor."""

    command: tuple[str, ...] | None = None
    """The trainer's command line; None: this package's own trainer."""
    module: str = OWN_TRAINER
    """The module of this package that trains, where there is no command."""
    batch_size: int = 8
    """The batch size per device that the user asked for; 1 where we cannot make it smaller."""
    max_restarts: int = 2
    stall_seconds: float = 30 * 60.0
    grace_seconds: float = 120.0
    max_runtime_seconds: float = math.inf
    world: World = ALONE
    """Who trains together; a command starts its own processes."""
    notice: str = ""
    """A line of sh that ends well when the provider takes the machine back; see
    `trainer.supervision.notice`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one trainer ended."""

    code: int
    """Exit code; negative when a signal ended it."""
    status: Status
    """What the trainer itself last wrote."""
    requested: Control | None = None
    """The request to pause or stop that was in force, if any."""
    control_changed: bool = False
    """Whether control.json was written while the trainer lived, seen by us or not."""
    terminated: bool = False
    """Whether the supervisor sent a signal to end it, because of the request."""
    lingered: bool = False
    """Whether it was killed after it had said how it ended, because it did not exit."""
    stalled: bool = False
    """Whether it was killed because it gave no sign of life."""
    who: str = "the trainer"
    """Whose end it is; of several processes the one that failed first."""
    local_rank: int = 0
    """Of that process, among those of this machine."""
    several: bool = False
    """Whether several processes train here, each on a GPU of its own."""
    cause: OrchestratorError | None = None
    """Why it had to end, where that is known for certain."""
    printed: tuple[str, ...] = ()
    """The last lines that it printed, those with anything to read in them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The state that a trainer's end leaves the job in."""

    state: JobState
    reason: str = ""
    error: OrchestratorError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Another start of the trainer, and the line for the log that says why."""

    kind: Kind
    line: str
    changes: dict[str, Any]
    """Fields of `Status` that the next start begins with."""


def read_terms(record: dict[str, Any]) -> Terms:
    """Return what the content of `job.json` says to the supervisor.

    Raises:
        ConfigError: naming the entry that is wrong.
    """
    limits = _mapping(record, "limits")
    config = _mapping(record, "config")
    runtime = limits.get("max_runtime_minutes")
    ours = _is_ours(config)
    return Terms(
        command=_command(record.get("command")),
        module=OWN_TRAINER if ours else "trainer.command",
        world=read_world(record) if ours else ALONE,
        batch_size=_batch_size(config),
        max_restarts=int(_number(limits, "limits", "max_restarts", 2)),
        stall_seconds=60 * _number(limits, "limits", "stall_timeout_minutes", 30),
        grace_seconds=_number(limits, "limits", "stop_grace_seconds", 120),
        max_runtime_seconds=math.inf
        if runtime is None
        else 60 * _number(limits, "limits", "max_runtime_minutes", 0),
        notice=str(record.get("notice") or ""),
    )


def judge(ended: Ended, terms: Terms) -> Verdict:
    """Return the state that this end of the trainer leaves the job in.

    What the trainer recorded counts when its exit code agrees; a failure that could be retried
    gives way to a request to pause or stop, since the next start retries it anyway.
    """
    # A trainer that was killed because it would not exit had already recorded its end.
    state, orderly = ended.status.state, ended.code == 0 or ended.lingered
    if state is JobState.COMPLETED and orderly:
        return Verdict(state=state)
    if state in {JobState.PAUSED, JobState.STOPPED} and orderly:
        return _at_rest(ended, otherwise=state)
    if ended.cause:  # whatever was asked for: what comes next has to know
        return Verdict(state=JobState.FAILED, error=ended.cause)
    error = failure(ended, terms)
    recorded = state is JobState.FAILED and ended.status.error is not None
    # Killed by us on request, or gone without a word: that is the end that was asked for. An error
    # on record that no retry mends is reported all the same, or a person would resume a job that
    # fails again at once.
    excused = error.action is Action.RETRY or (
        not recorded and (ended.terminated or ended.code == 0)
    )
    if ended.requested and excused:
        return _at_rest(ended, otherwise=JobState.STOPPED)
    return Verdict(state=JobState.FAILED, error=error)


def failure(ended: Ended, terms: Terms) -> OrchestratorError:
    """Return the error that says why this trainer did not end well."""
    if ended.status.state is JobState.FAILED and ended.status.error:
        return from_dict(ended.status.error)
    if ended.stalled:
        return TrainingStalled(
            f"The trainer gave no sign of life for {terms.stall_seconds / 60:g} minutes "
            "(no batch, no metric, no status; no log line where it does not train) and was killed."
        )
    if number := signal_of(ended.code):
        return _killed_by(number, ended)
    if ended.code == 0:
        return TrainingFailed(
            f"{ended.who.capitalize()} ended with exit code 0 but never said that it had completed: "
            f"its status was {ended.status.state.value!r}."
        )
    last = ended.printed[-1][:MAX_QUOTE].rstrip(".") if ended.printed else "it printed nothing"
    return TrainingFailed(f"{ended.who.capitalize()} ended with exit code {ended.code}: {last}.")


def signal_of(code: int) -> int | None:
    """Return the signal that an exit code stands for: -n, or 128 + n as shells report it."""
    # A shell between us and the program turns a signal into 128 + n.
    number = -code if code < 0 else code - 128
    return number if number in set(signal.Signals) else None


def retry_after(error: OrchestratorError, status: Status, terms: Terms) -> Retry | None:
    """Return how to go on after `error`, or None when the job has failed.

    Out of memory is met with a smaller batch and costs no restart: it ends by itself at batch 1.
    A NaN or infinite loss is met once, by a lower learning rate from the last good checkpoint.
    """
    if error.action is not Action.RETRY:
        return None
    cause = f"after {type(error).__name__}: {error.message}"
    if isinstance(error, OutOfMemory):
        # It needs no count of its own: every retry halves the batch at least, so it ends.
        divisor = next_divisor(terms.batch_size, status.batch_divisor)
        if divisor is None:
            return None
        before, now = terms.batch_size // status.batch_divisor, terms.batch_size // divisor
        line = f"restart with batch size {now} instead of {before} {cause}"
        return Retry(kind=Kind.OUT_OF_MEMORY, line=line, changes={"batch_divisor": divisor})
    if isinstance(error, TrainingDiverged):
        # Once only: if half the rate diverges too, the data or the settings are at fault. And only
        # our own trainer knows how to lower it.
        if status.learning_rate_factor != 1 or terms.module != OWN_TRAINER:
            return None
        line = f"roll back to the last checkpoint, {LOWER_RATE:g} times the learning rate, {cause}"
        return Retry(kind=Kind.ROLL_BACK, line=line, changes={"learning_rate_factor": LOWER_RATE})
    if status.restarts >= terms.max_restarts:
        return None
    restarts = status.restarts + 1
    line = f"restart {restarts} of {terms.max_restarts} {cause}"
    return Retry(kind=Kind.RESTART, line=line, changes={"restarts": restarts})


def next_divisor(batch_size: int, divisor: int) -> int | None:
    """Return the smallest divisor of `batch_size` that at least halves the present batch.

    Only divisors will do: accumulation is multiplied by what the batch is divided by, and the
    examples per optimizer step must stay the same. None at batch 1, which cannot be divided.
    """
    present = batch_size // divisor
    # Batch sizes are small, so counting up is cheaper to read than factorising.
    candidates = (d for d in range(divisor + 1, batch_size + 1) if batch_size % d == 0)
    return next((d for d in candidates if batch_size // d <= present / 2), None)


def usable_divisor(batch_size: int, divisor: int) -> int:
    """Return the largest divisor of `batch_size` up to `divisor`: a job file may have changed."""
    return max(d for d in range(1, max(divisor, 1) + 1) if batch_size % d == 0)


def _at_rest(ended: Ended, *, otherwise: JobState) -> Verdict:
    reason = ended.status.reason
    if ended.requested is None:
        return Verdict(state=otherwise, reason=reason)
    state = REST_STATES.get(ended.requested.desired, otherwise)
    return Verdict(state=state, reason=ended.requested.reason or reason)


def _killed_by(number: int, ended: Ended) -> OrchestratorError:
    name = signal.Signals(number).name
    # NCCL's own watchdog aborts the process with SIGABRT, so the exit code alone would say that it
    # crashed; the reason is only in the log.
    if hung := [line for line in ended.printed if "collective operation timeout" in line]:
        return TrainingStalled(
            f"{ended.who.capitalize()} waited in vain for another ({hung[-1][:MAX_QUOTE]})."
        )
    # The kernel leaves no trace in the process; the OOM killer is by far the likeliest sender.
    if number == signal.SIGKILL:
        return TrainerKilled(
            f"{name} ended {ended.who} and the supervisor did not send it: "
            "the machine's memory may have run out."
        )
    return TrainerKilled(
        f"{name} ended {ended.who}.", "The lines above in train.log show where it was."
    )


def _is_ours(config: dict[str, Any]) -> bool:
    return bool(config.get("trainer", "builtin") == "builtin")


def _batch_size(config: dict[str, Any]) -> int:
    """Return the batch size that can be divided; that of a command only if it is passed on."""
    size = int(_number(config, "config", "per_device_train_batch_size", 8, least=1))
    # A command that never sees the batch size cannot obey a smaller one: restarting it would run
    # out of memory again, for ever.
    passed_on = "{per_device_train_batch_size}" in str(config.get("command"))
    return size if config.get("trainer") != "command" or passed_on else 1


def _mapping(record: dict[str, Any], name: str) -> dict[str, Any]:
    value = record.get(name) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"job.json: {name} is {value!r}, not a mapping of names to values.")
    return value


def _number(
    record: dict[str, Any], where: str, name: str, default: float, *, least: float = 0
) -> float:
    value = record.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= least:
        raise ConfigError(f"job.json: {where}.{name} is {value!r}, not a number from {least} up.")
    return float(value)


def _command(value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(word, str) for word in value):
        raise ConfigError(f"job.json: command is {value!r}, not a list of words.")
    return tuple(value)
