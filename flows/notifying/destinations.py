"""Who is told of a job: those of its file, and those that this installation tells of it.

Nothing here holds a secret: receivers are named by variables and addresses of secrets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from blocks.home import home
from flows.job_file import parse_job
from trainer.config.explain import validated
from trainer.config.notifications import (
    HomeNotifications,
    Notable,
    Notifications,
    QuietHours,
    Receiver,
)

FILE = "notifications.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One receiver, with all that decides what it gets and when."""

    to: str
    key: str | None = None
    events: tuple[str, ...] = tuple(Notable)
    progress_percent: float | None = None
    quiet_hours: dict[str, Any] | None = None
    group_seconds: float = 60.0
    batches: str = "one"

    @property
    def id(self) -> str:
        """The name of its outbox: jobs with the same receiver, hours and grouping share one."""
        said = json.dumps([self.to, self.key, self.quiet_hours, self.group_seconds])
        return hashlib.sha256(said.encode()).hexdigest()[:16]

    @property
    def quiet(self) -> QuietHours | None:
        """Its quiet hours."""
        return QuietHours.model_validate(self.quiet_hours) if self.quiet_hours else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def destination_of(record: dict[str, Any]) -> Destination:
    """Return what `to_dict` wrote, perhaps in a newer version that knows more fields."""
    known = {k: v for k, v in record.items() if k in Destination.__dataclass_fields__}
    return Destination(**{**known, "events": tuple(known.get("events") or ())})


def file_of_home() -> Path:
    """Return the file that says whom this installation tells."""
    return home() / FILE


def of_home() -> HomeNotifications:
    """Return whom this installation tells of all jobs, and of those of single users.

    Raises:
        ConfigError: the file is not right; the field, the value and the remedy are named.
    """
    file = file_of_home()
    if not file.exists():
        return HomeNotifications()
    remedy = f"Correct {file}; docs/notifications.md has an example."
    return validated(HomeNotifications, parse_job(file), str(file), remedy)


def destinations(user: str, own: Notifications | None) -> list[Destination]:
    """Return who is told of a job, each once.

    Args:
        user: who submitted it.
        own: what its file says.

    Raises:
        ConfigError: see `of_home`.
    """
    installation = of_home()
    found: dict[str, Destination] = {}
    # The job's own first: it is nearest to the job.
    for settings in (own, installation.users.get(user), installation):
        for destination in _each(settings) if settings else ():
            found.setdefault(destination.to, destination)
    return list(found.values())


def _each(settings: Notifications) -> Iterator[Destination]:
    for receiver in settings.to:
        yield _destination(settings, receiver)


def _destination(settings: Notifications, receiver: Receiver) -> Destination:
    quiet = settings.quiet_hours
    events = settings.events if receiver.events is None else receiver.events
    return Destination(
        to=receiver.to,
        key=receiver.key,
        events=tuple(map(str, events)),
        progress_percent=settings.progress_percent,
        quiet_hours=quiet.model_dump(mode="json") if quiet else None,
        group_seconds=settings.group_seconds,
        batches=settings.batches,
    )
