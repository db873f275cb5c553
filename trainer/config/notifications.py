"""Who is told what becomes of a job, and when they are left in peace."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from trainer.config.settings import Settings, Text

VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
MAIL = re.compile(r"mailto:[^\s/:@?]+@[^\s/:@?]+")
SECRET = "secret://"  # noqa: S105 - the beginning of an address, not a secret


class Notable(StrEnum):
    """What one may be told of."""

    STARTED = "started"
    PROGRESS = "progress"
    """Every so many percent; see `progress_percent`."""
    PAUSED = "paused"
    FAILED = "failed"
    COMPLETED = "completed"
    STOPPED = "stopped"
    MACHINE_LOST = "machine_lost"
    CONTINUED = "continued"
    """It trains again after its machine or GPU was lost."""
    BUDGET = "budget"
    """80 % of `limits.max_cost` are spent, and 100 %."""
    GPU_OOM = "gpu_oom"
    TIMEOUT_WARNING = "timeout_warning"
    """90 % of `limits.max_runtime_minutes` are over."""
    GPU_SICK = "gpu_sick"
    BATCH = "batch"
    """All jobs of a batch are at their end."""


def _clock(text: str) -> str:
    if not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", text):
        raise ValueError("must be a time of day from 00:00 to 23:59, in quotes")
    return text


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):
        raise ValueError("is not a time zone; write one such as Europe/Berlin, or UTC") from None
    return name


ClockTime = Annotated[str, AfterValidator(_clock)]


class QuietHours(Settings):
    """Hours of every day in which messages wait until they are over."""

    start: ClockTime
    """When they begin, such as "22:00"."""
    end: ClockTime
    """When they are over, such as "07:00"; before `start`: on the next day."""
    time_zone: Annotated[str, AfterValidator(_zone)]
    """Where the clock hangs, such as Europe/Berlin; summer time is kept."""
    urgent: list[Notable] = Field(default_factory=list)
    """What is sent all the same, such as [failed]."""

    @model_validator(mode="after")
    def _are_some_hours(self) -> QuietHours:
        if self.start == self.end:
            raise ValueError("start and end are the same: that is no time at all. Change one")
        return self


class Receiver(Settings):
    """Somebody who is told, by one way."""

    to: Text
    """Where: the NAME of a variable that holds an address of Apprise (slack://…, ntfy://…), or secret://… as
    in docs/secrets.md; mailto:ADDRESS by the server in SMTP_URL; https://… of a webhook, with `key`."""
    key: Text | None = None
    """The secret by which a webhook's messages are signed: the NAME of a variable, or secret://…. null: they are not signed."""
    events: list[Notable] | None = None
    """Of what; null: as for all."""

    @model_validator(mode="after")
    def _keeps_secrets(self) -> Receiver:
        """Refuse what would lie in Prefect for all to read; nothing of it is quoted."""
        named = VARIABLE.fullmatch(self.to) or self.to.startswith(SECRET)
        if not (named or MAIL.fullmatch(self.to) or (self.key and _is_open(self.to))):
            raise ValueError(
                "notifications.to: an address that lets whoever has it write to you stays out of job "
                "files. Put it in a variable, such as SLACK_URL, and write the variable's name, or "
                "secret://… where it is kept; mailto:ADDRESS and a webhook's https://… with a key may "
                "stand here"
            )
        if self.key and not (VARIABLE.fullmatch(self.key) or self.key.startswith(SECRET)):
            raise ValueError(
                "notifications.to.key: must be the NAME of the variable that holds it, or secret://…"
            )
        return self


def _is_open(address: str) -> bool:
    """Whether it is a webhook's address without a password in it."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    is_web = parts.scheme in {"http", "https"} and bool(parts.hostname)
    return is_web and "@" not in parts.netloc and not parts.query


def _written_short(value: Any) -> Any:
    """Return a list in which an address alone stands for a receiver with defaults."""
    given = [value] if isinstance(value, str | dict) else value
    if not isinstance(given, list):
        return given
    return [{"to": each} if isinstance(each, str) else each for each in given]


class Notifications(Settings):
    """Who is told of what."""

    to: Annotated[list[Receiver], BeforeValidator(_written_short)] = Field(default_factory=list)
    """Who; an address alone will do."""
    events: list[Notable] = Field(default_factory=lambda: list(Notable))
    """Of what; all by default, of which `progress` needs `progress_percent`."""
    progress_percent: float | None = Field(default=None, gt=0, le=50)
    """Tell of progress every so many percent. null: not."""
    quiet_hours: QuietHours | None = None
    """When to be left in peace. null: never."""
    group_seconds: float = Field(default=60.0, ge=0, le=86400)
    """What comes within so many seconds of a message waits, and becomes one message."""
    batches: Literal["one", "each"] = "one"
    """one: a batch sends one message, when all its jobs are at their end. each: every job its own."""


class HomeNotifications(Notifications):
    """Who is told of all jobs of an installation, and of those of single users besides."""

    users: dict[str, Notifications] = Field(default_factory=dict)
    """By who submitted the job."""
