"""The alerts that a platform gets: each is noted in the spool, and delivered from there.

Every function does nothing for a run that reports no alerts, and raises nothing: a report never
fails the job.
"""

from __future__ import annotations

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from flows.logger import logger
from flows.reporting.spool import DeliveryCursor, Spool
from flows.run_folder import RunFolder
from trainer.contract.errors import OrchestratorError, OutOfMemory
from trainer.contract.metrics import Record, parse_records

TAIL = 64 * 1024  # bytes of the metrics in which the newest record is looked for
# torch says "CUDA out of memory" itself, but passes on the libraries' own words when one of them
# cannot allocate, such as CUBLAS_STATUS_ALLOC_FAILED. Main memory that ran out names none of them.
GPU_WORDS = ("CUDA", "CUBLAS", "CUDNN")  # in what torch says when a GPU's memory is full
CUDA_OOM = "CUDA_OOM"


class Alert(StrEnum):
    """The types of the platform's contract."""

    STARTED = "job_started"
    COMPLETED = "job_completed"
    FAILED = "job_failed"
    CANCELLED = "job_cancelled"
    GPU_OOM = "gpu_oom"
    TIMEOUT_WARNING = "timeout_warning"


STATUS = {
    Alert.STARTED: "running",
    Alert.COMPLETED: "completed",
    Alert.FAILED: "failed",
    Alert.CANCELLED: "failed",  # of the contract's three words the one that says: over, no result
    Alert.GPU_OOM: "running",
    Alert.TIMEOUT_WARNING: "running",
}


def started(run: RunFolder, total_steps: int) -> None:
    """Training runs for the first time."""
    _note(run, Alert.STARTED, Alert.STARTED, total_steps=total_steps or None)


def completed(run: RunFolder) -> None:
    """The artifact is home and verified."""
    started(run, 0)  # a short training may be over before it was seen running
    _note(run, Alert.COMPLETED, Alert.COMPLETED, progress=100.0)


def failed(run: RunFolder, error: OrchestratorError) -> None:
    """The job ended with an error."""
    kind = error_type(error)
    # Messages only, never a traceback: one may quote a row of the data, and this leaves the house.
    words = {"error_message": error.message, "error_type": kind}
    if kind == CUDA_OOM:
        _note(run, Alert.GPU_OOM, _once_an_execution(run, Alert.GPU_OOM), status="failed", **words)
    _note(run, Alert.FAILED, _once_an_execution(run, Alert.FAILED), **words)


def cancelled(run: RunFolder, why: str) -> None:
    """The job was stopped: as asked, or because a limit was reached."""
    if any(alert["key"] == Alert.COMPLETED for alert in Spool(run).alerts()):
        return  # the request came too late: the artifact was verified before it
    _note(run, Alert.CANCELLED, _once_an_execution(run, Alert.CANCELLED), error_message=why)


def memory_ran_out(run: RunFolder, when: str, why: str) -> None:
    """A GPU's memory ran out and the training goes on with a smaller batch.

    Args:
        run: the run that it happened to.
        when: the event's time; an event that was seen before raises no second alert.
        why: the error's message.
    """
    key = f"{Alert.GPU_OOM} at {when}"
    _note(run, Alert.GPU_OOM, key, error_message=why, error_type=CUDA_OOM)


def nearly_over(run: RunFolder, why: str) -> None:
    """Most of the job's time or money is used up."""
    _note(run, Alert.TIMEOUT_WARNING, Alert.TIMEOUT_WARNING, error_message=why)


def supervisor_started(run: RunFolder) -> None:
    """Note that `limits.max_runtime_minutes` counts from now: each supervisor has it anew."""
    spool = Spool(run)
    try:
        if who := spool.who():
            spool.save_who(replace(who, supervised_since=time.time()))
    except OSError as error:
        logger().warning("the start of the training could not be noted: %s", error)


def next_alert(
    spool: Spool, cursor: DeliveryCursor
) -> tuple[dict[str, Any] | None, DeliveryCursor]:
    """Return the alert to report next, and the cursor for when it is delivered."""
    # Alerts are only ever appended, so how many were delivered is enough of a cursor.
    waiting = spool.alerts()[cursor.offset :]
    if not waiting:
        return None, cursor
    return waiting[0]["body"], replace(cursor, offset=cursor.offset + 1)


def error_type(error: OrchestratorError) -> str:
    """Return CUDA_OOM when a GPU's memory ran out, else the error's class."""
    if isinstance(error, OutOfMemory) and is_of_gpu(error.message):
        return CUDA_OOM
    return type(error).__name__


def is_of_gpu(message: str) -> bool:
    """Whether it was a GPU's memory that ran out."""
    return any(word in message.upper() for word in GPU_WORDS)


def _note(run: RunFolder, kind: Alert, key: str, **fields: Any) -> None:
    # The body is made now, not when it is sent: progress and duration are those of this moment,
    # however long the receiver is down.
    spool = Spool(run)
    who = spool.who()
    if who is None or not who.alerts:
        return
    now = time.time()
    body = {
        "type": kind,
        "job_id": who.job_id,
        "user_id": who.user_id,
        "model_name": who.model_name,
        "status": STATUS[kind],
        **progress_of(run.metrics),
        "duration": _duration(spool, now),
        **{name: value for name, value in fields.items() if value is not None},
    }
    try:
        spool.add_alert(key, now, body)
    except OSError as error:
        logger().warning("the alert %s could not be noted: %s", kind, error)


def _once_an_execution(run: RunFolder, kind: Alert) -> str:
    """Return the key of an end: a job that is resumed may end again, which is another alert."""
    who = Spool(run).who()
    return f"{kind} {who.executions if who else 0}"


def _duration(spool: Spool, now: float) -> int:
    """Return the milliseconds since training began, pauses included; 0 before it did."""
    began = next((a["at"] for a in spool.alerts() if a["key"] == Alert.STARTED), now)
    return max(0, round(1000 * (now - began)))


def progress_of(metrics: Path) -> Record:
    """Return progress (percent), steps and loss, as far as there are any."""
    records = _last_records(metrics)
    if not records:
        return {"progress": 0.0, "current_step": 0}
    step, total = records[-1]["step"], records[-1].get("total_steps")
    found: Record = {
        "progress": round(100.0 * min(1.0, step / total), 1) if total else 0.0,
        "current_step": step,
    }
    if total:
        found["total_steps"] = total
    loss = next((r["train_loss"] for r in reversed(records) if r.get("train_loss")), None)
    return found if loss is None else found | {"loss": loss}


def _last_records(metrics: Path) -> list[Record]:
    try:
        with metrics.open("rb") as stream:
            # A first line that this cuts in two is not JSON any more, and is skipped.
            stream.seek(max(0, stream.seek(0, 2) - TAIL))
            return parse_records(stream.read().splitlines())[0]
    except OSError:
        return []
