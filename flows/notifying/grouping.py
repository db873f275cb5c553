"""What is sent now, what waits, and until when: a pure function of the clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from flows.notifying.destinations import Destination
from flows.notifying.outbox import SentRecord
from flows.notifying.quiet import quiet_until

GATHER_SECONDS = 3.0  # for what happens at the same time to come together
MOST_SECONDS = 3600.0  # the longest wait that a receiver may ask for
PAUSES = (5.0, 30.0, 120.0, 600.0, 1800.0)  # seconds, after a receiver did not take a message


@dataclass(frozen=True, slots=True)
class Turn:
    """What becomes of the events that wait."""

    now: tuple[Mapping[str, Any], ...]
    """They go out as one message."""
    at: float | None
    """When the others may, in seconds since the epoch; None: none waits."""


def turn(
    destination: Destination,
    record: SentRecord,
    waiting: Sequence[Mapping[str, Any]],
    now: float,
    *,
    hurry: bool = False,
) -> Turn:
    """Return what of the events that wait is sent now.

    Args:
        destination: who gets them.
        record: how sending went before.
        waiting: the events, oldest first, each with `what` happened `at` which second since the epoch.
        now: seconds since the epoch.
        hurry: whether nothing more is waited for that may come at the same time.
    """
    if not waiting:
        return Turn((), None)
    gather = 0.0 if hurry else GATHER_SECONDS
    # What lies in the future was noted before a clock was set back: nobody waits for that.
    first = min(min(float(event["at"]) for event in waiting), now)
    free = first + gather
    if 0 < record.last <= now:
        free = max(free, record.last + destination.group_seconds)
    if record.retry_at <= now + MOST_SECONDS:
        free = max(free, record.retry_at)
    if free > now:
        return Turn((), free)
    quiet = destination.quiet
    over = quiet_until(quiet, datetime.fromtimestamp(now, UTC)).timestamp()
    if quiet is None or over <= now:
        return Turn(tuple(waiting), None)
    urgent = tuple(event for event in waiting if event["what"] in quiet.urgent)
    return Turn(urgent, over if len(urgent) < len(waiting) else None)


def pause_after(failures: int) -> float:
    """Return for how many seconds a receiver is left alone after so many failures in a row."""
    return PAUSES[min(failures, len(PAUSES)) - 1]
