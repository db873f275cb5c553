"""The messages of a stream: metrics, status and notification, and the cursor to go on from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from flows.shown import ShownState, state_of
from gateway.jobs import PHRASES
from gateway.metrics.series import plain
from trainer.contract.errors import ConfigError
from trainer.contract.events import Event, Kind
from trainer.contract.job_directory import JobState
from trainer.contract.metrics import Record

MOST = 1 << 62  # of a part of a cursor
QUIET = frozenset({Kind.FIRST_ROW, Kind.SAVED, Kind.RESUMED})
"""Events that a person need not be told: the status says so, or the page shows it."""
MESSAGES = {
    JobState.RUNNING: ("Training started", "The model is being trained."),
    JobState.PAUSED: ("Training paused", "A checkpoint is saved; it can be resumed."),
    JobState.COMPLETED: ("Training Complete!", "Your model training has finished successfully."),
    JobState.FAILED: ("Training failed", "It ended with an error."),
    JobState.STOPPED: ("Training stopped", "It was cancelled, or a limit stopped it."),
}


class MessageType(StrEnum):
    """What a message is about."""

    METRICS = "metrics"
    STATUS = "status"
    NOTIFICATION = "notification"


class PastState(ShownState, Protocol):
    """A state that a run has or had, with its time: as Prefect's client gives it."""

    @property
    def timestamp(self) -> datetime:
        """When it came."""


@dataclass(frozen=True, slots=True)
class StreamCursor:
    """How far a client is: the same wherever it comes back."""

    step: int = -1
    """The newest step that it has."""
    state: int = 0
    """When the newest state came that it has, in microseconds since 1970."""
    event: int = 0
    """The bytes of the run's events that it has."""

    def __str__(self) -> str:
        return f"{self.step}.{self.state}.{self.event}"


START = StreamCursor()


def cursor_of(text: str) -> StreamCursor:
    """Return the cursor that a client sent; 0 is the beginning.

    Raises:
        ConfigError: it is none.
    """
    if text == "0":
        return START
    parts = text.split(".")
    try:
        step, state, event = map(int, parts)
    except ValueError:
        step = state = event = -2
    if not (-1 <= step <= MOST and 0 <= state <= MOST and 0 <= event <= MOST) or len(text) > 80:
        raise ConfigError(
            f"after: {text[:80]!r} is no cursor.", "Send the cursor of a message, or 0 for all."
        )
    return StreamCursor(step, state, event)


@dataclass(frozen=True, slots=True)
class Message:
    """A message as all its readers get it: made and encoded once."""

    type: MessageType
    text: str
    cursor: StreamCursor
    step: int = -1
    """Of the metrics in it."""

    def as_event(self) -> bytes:
        """Return it as an event of Server-Sent Events."""
        return f"id: {self.cursor}\nevent: {self.type}\ndata: {self.text}\n\n".encode()


def message(type: MessageType, data: dict[str, Any], cursor: StreamCursor) -> Message:
    """Return a message; its text is one line of JSON."""
    content = {"type": type, "data": data, "cursor": str(cursor)}
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    return Message(type, text, cursor, data.get("step", -1))


def metrics_data(record: Record) -> dict[str, Any]:
    """Return a record as messages have it: `loss` as well, and null for what is no number."""
    data = {name: plain(value) for name, value in record.items()}
    if "train_loss" in data:
        data["loss"] = data["train_loss"]
    return data


def status_data(job: str, state: PastState) -> dict[str, Any]:
    """Return a state as messages have it."""
    is_state, at = state_of(state), state.timestamp.astimezone(UTC)
    text = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    said = (state.message or "") if state.message not in PHRASES else ""
    data: dict[str, Any] = {"job_id": job, "state": str(is_state), "at": text}
    if said:
        data["message"] = said
    if is_state is JobState.RUNNING:
        data["started_at"] = text
    if is_state in {JobState.COMPLETED, JobState.FAILED, JobState.STOPPED}:
        data["completed_at"] = text
    return data


def notification_of_state(job: str, state: PastState) -> dict[str, Any] | None:
    """Return what a person is told of a state; None: nothing."""
    is_state = state_of(state)
    if is_state not in MESSAGES:
        return None
    title, text = MESSAGES[is_state]
    if is_state is not JobState.COMPLETED and state.message and state.message not in PHRASES:
        text = state.message
    return {"job_id": job, "title": title, "message": text, "kind": str(is_state)}


def notifications_of_events(job: str, events: Sequence[Event]) -> Iterator[dict[str, Any]]:
    """Yield what a person is told of events of the training."""
    for event in events:
        if event.kind not in QUIET:
            title = event.kind.replace("_", " ").capitalize()
            yield {
                "job_id": job,
                "title": title,
                "message": event.message,
                "kind": event.kind,
                "step": event.step,
                "at": event.at,
            }


def microseconds(state: PastState) -> int:
    """Return when a state came, as cursors have it."""
    return round(state.timestamp.timestamp() * 1_000_000)
