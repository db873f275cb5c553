"""Quiet hours: whether it is quiet, and until when, by the clock of a time zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from trainer.config.notifications import QuietHours

MINUTE = timedelta(minutes=1)


def is_quiet(hours: QuietHours, at: datetime) -> bool:
    """Whether a moment is in the quiet hours, as the clock on the wall shows it."""
    clock = at.astimezone(ZoneInfo(hours.time_zone)).strftime("%H:%M")
    if hours.start < hours.end:
        return hours.start <= clock < hours.end
    return clock >= hours.start or clock < hours.end


def quiet_until(hours: QuietHours | None, at: datetime) -> datetime:
    """Return when messages may go out: the moment itself where it is not quiet.

    Minute by minute, and not by adding hours: on the night in which the clocks are changed the end may
    come twice, or never.
    """
    if hours is None or not is_quiet(hours, at):
        return at
    moment = at.astimezone(UTC).replace(second=0, microsecond=0)
    while is_quiet(hours, moment):
        moment += MINUTE
    return moment
