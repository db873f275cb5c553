"""The folder through which orchestrator and trainer communicate. Standard library only.

    job.json         in    the training config, the run's id, the limits
    gpus.json        in    which GPUs of this computer the job has, where others may want them
    control.json     in    what is wanted: run, pause or stop
    lease            in    touched by the orchestrator; a stale one means that it is gone
    notice.json      in    the provider takes the machine back: save a checkpoint at once
    status.json      out   what is so: state, step, process ids, error; replaced atomically
    train.log        out   everything printed, append only
    metrics.jsonl    out   one object per logging step, append only
    events.jsonl     out   one object per event: restarts, spikes, checkpoints; append only
    checkpoints/     out   checkpoint-N/, whole only with its MANIFEST.json
    ranks/           out   what each process said and failed with, where several train
    output/          out   the adapter or model, whole only with its MANIFEST.json
    reports/         out   what TensorBoard, wandb and mlflow write

Files, because files survive: the orchestrator may die, the network may fail, another orchestrator
may attach, and the truth is still here.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from trainer.contract.errors import OrchestratorError, from_dict
from trainer.contract.files import read_json, replace_json
from trainer.contract.flock import flock

MERGED, GGUF = "merged", "gguf"
"""Folders of an output: the merged model, and files for llama.cpp."""
LEASE_EXPIRED = "lease expired"
"""How the reason begins when a job stopped because nobody renewed the lease."""
SIGNALLED = "a signal asked it to stop"
"""Why a trainer stopped that got the signal, rather than its supervisor."""
NOBODY_ASKED = (LEASE_EXPIRED, SIGNALLED, "SIGTERM")
"""How reasons begin that are no request of a person. SIGTERM is what all processes get as their computer
goes down, that of a machine which is taken back included; who means to stop a job writes `control.json`."""


class JobState(StrEnum):
    """created → initializing → running → completed / failed / stopped; running ⇄ paused."""

    CREATED = "created"
    INITIALIZING = "initializing"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def at_rest(self) -> bool:
        """Whether no process works on the job in this state."""
        return self in {JobState.PAUSED, JobState.COMPLETED, JobState.FAILED, JobState.STOPPED}


class Desired(StrEnum):
    """What the orchestrator wants of the trainer."""

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """The request in `control.json`.

    `grace_seconds` is how long the trainer may take to save and end before it is killed. It is
    relative, counted by the process that reads it, so that two clocks need not agree.
    """

    desired: Desired = Desired.RUN
    grace_seconds: float = 120.0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What `status.json` says. Times are UTC, ISO 8601."""

    state: JobState = JobState.CREATED
    step: int = 0
    total_steps: int = 0
    pid: int | None = None
    """The supervisor's process id."""
    trainer_pid: int | None = None
    exit_code: int | None = None
    """The trainer's exit code; negative when a signal ended it."""
    error: dict[str, str] | None = None
    reason: str = ""
    """Why it paused or stopped."""
    warning: str = ""
    """What did not go well though it completed: the result could not be uploaded, say."""
    attempt: int = 0
    """How often the trainer was started, over all supervisors."""
    restarts: int = 0
    """How often this was a retry after a stall or a signal."""
    batch_divisor: int = 1
    """What the batch size is divided by since memory ran out; accumulation is multiplied."""
    learning_rate_factor: float = 1.0
    """What the learning rate is multiplied by since the loss was NaN or infinite."""
    peak_rss_bytes: int = 0
    started_at: str | None = None
    updated_at: str | None = None
    finished_at: str | None = None

    @property
    def interrupted(self) -> bool:
        """Whether it stopped though nobody asked for that, so that it is to go on."""
        return self.state is JobState.STOPPED and self.reason.startswith(NOBODY_ASKED)

    def exception(self) -> OrchestratorError | None:
        """Return the failure as an exception, or None when there is none."""
        return from_dict(self.error) if self.error else None


def utc_now() -> str:
    """Return the time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class JobDirectory:
    """Names and reads and writes the files of one job directory."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.job = self.root / "job.json"
        self.gpus = self.root / "gpus.json"
        self.control = self.root / "control.json"
        self.lease = self.root / "lease"
        self.notice = self.root / "notice.json"
        self.status = self.root / "status.json"
        self.log = self.root / "train.log"
        self.metrics = self.root / "metrics.jsonl"
        self.events = self.root / "events.jsonl"
        self.pulse = self.root / ".pulse"
        self.checkpoints = self.root / "checkpoints"
        self.adapter = self.root / "adapter"
        """Where several adapters to go on with are merged into one."""
        self.output = self.root / "output"
        self.cache = self.root / "cache"
        self.reports = self.root / "reports"
        self.uploaded = self.root / "uploaded.json"
        self.ranks = self.root / "ranks"
        self._lock = self.root / ".lock"

    def __repr__(self) -> str:
        return f"JobDirectory({str(self.root)!r})"

    # What is wanted ---------------------------------------------------------------------------

    def request(self, desired: Desired, *, grace_seconds: float = 120.0, reason: str = "") -> None:
        """Write the request that the trainer and its supervisor obey."""
        replace_json(
            self.control,
            {"desired": desired, "grace_seconds": grace_seconds, "reason": reason},
        )

    def read_control(self) -> Control:
        """Return the request; without a readable one, to run."""
        record = read_json(self.control) or {}
        try:
            return Control(
                desired=Desired(record.get("desired", Desired.RUN)),
                grace_seconds=float(record.get("grace_seconds", 120.0)),
                reason=str(record.get("reason", "")),
            )
        except (TypeError, ValueError):
            return Control()

    # What is so -------------------------------------------------------------------------------

    def read_status(self) -> Status:
        """Return the status; without a readable one, that of a job just created."""
        return parse_status(read_json(self.status))

    def update_status(self, *, durable: bool = True, **changes: Any) -> Status:
        """Replace the given fields of the status and return it.

        One process writes at a time: the supervisor while no trainer lives, else the trainer.
        """
        # Read, change, write without a lock: safe only because one process writes at a time.
        status = dataclasses.replace(self.read_status(), **changes, updated_at=utc_now())
        replace_json(self.status, dataclasses.asdict(status), durable=durable)
        return status

    # Whose it is ------------------------------------------------------------------------------

    @contextmanager
    def owned(self) -> Iterator[int | None]:
        """Hold the directory; yields the lock's descriptor, or None when somebody else has it.

        The lock is flock(2) on an open file: a child that inherits the descriptor holds it too,
        so it is free only when supervisor and trainer are both gone, however they went.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        # The file is never removed: if it were, two processes could lock two files of that name.
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                # flock(2), not fcntl(2) or lockf(3): those belong to the process and are lost at
                # fork.
                flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, self._lock)
            except BlockingIOError:
                yield None
            else:
                yield descriptor
        finally:
            os.close(descriptor)

    def is_alive(self) -> bool:
        """Whether a supervisor or a trainer works in this directory now."""
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            flock(
                descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, self._lock
            )  # two who ask do not collide
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def parse_status(record: dict[str, Any] | None) -> Status:
    """Return the status in a record of `status.json`; unknown entries are passed over."""
    known = {field.name for field in dataclasses.fields(Status)}
    # A newer trainer may write fields that an older orchestrator does not know.
    facts = {name: value for name, value in (record or {}).items() if name in known}
    try:
        return Status(**{**facts, "state": JobState(facts.get("state", JobState.CREATED))})
    except ValueError:
        return Status()


def parse_status_text(content: bytes | None) -> Status:
    """Return the status in the bytes of a `status.json`; for invalid ones, that of a new job."""
    try:
        record = json.loads(content) if content else None
    except ValueError:
        record = None
    return parse_status(record)
