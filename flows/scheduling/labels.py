"""What a flow run says of its job to the queue, as labels of Prefect: whose it is, and what it holds.

Labels are texts by name; a run keeps them for good, and an update changes only those that it names.
Nothing here imports Prefect.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

PREFIX = "training-orchestrator."
USER = f"{PREFIX}user"
"""Who submitted it."""
PROJECT = f"{PREFIX}project"
BATCH = f"{PREFIX}batch"
"""The id of the batch that it belongs to."""
BATCH_LIMIT = f"{PREFIX}batch-limit"
"""How many jobs of its batch may run at once."""
AFTER = f"{PREFIX}after"
"""What it comes after, as a batch writes it."""
PLACE = f"{PREFIX}place"
"""When it was submitted, as ISO 8601: its place in the queue, which it keeps when it is paused for another.

Of a run that has GPUs. One that waits has it as the time of its state, where Prefect's own workers and
pages look for it: so a run that a person resumes has a new place, and one that was paused for another
its old one.
"""
MACHINE = f"{PREFIX}machine"
"""The computer on which it has GPUs, or had them last."""
GPUS = f"{PREFIX}gpus"
"""The UUIDs of those, with commas; empty for a job that takes none."""
SINCE = f"{PREFIX}since"
"""When it got them, as ISO 8601."""
FOR = f"{PREFIX}preempted-for"
"""The id of the job for which it was asked to pause last; empty once it has GPUs again."""

LabelValue = str | int | float | bool
Labels = Mapping[str, Any]
"""As Prefect gives them: with those of others among them, and values that anybody may have set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """The GPUs that a run was given."""

    machine: str
    gpus: tuple[str, ...]
    since: float
    """Seconds since the epoch, as all times here."""
    place: float
    """When the job was submitted; see `PLACE`."""

    def labels(self) -> dict[str, LabelValue]:
        """Return it as labels."""
        return {
            MACHINE: self.machine,
            GPUS: ",".join(self.gpus),
            SINCE: moment(self.since),
            PLACE: moment(self.place),
            FOR: "",
        }


def of_submit(*, user: str | None = None, project: str | None = None) -> dict[str, LabelValue]:
    """Return the labels of a job as it is submitted.

    Args:
        user: who submits it; None: who runs this process.
        project: the job's, if it has one.
    """
    labels: dict[str, LabelValue] = {USER: user or user_name()}
    return labels | ({PROJECT: project} if project else {})


def user_name() -> str:
    """Return the name of the user of this process, or the number of one who has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # as in a container
        return str(os.getuid())


def allotment(labels: Labels) -> Allotment | None:
    """Return the GPUs that a run has, or had last; None: it was never given any by a queue."""
    machine, since = text(labels, MACHINE), seconds(labels.get(SINCE))
    if not machine or since is None:
        return None
    gpus = tuple(filter(None, text(labels, GPUS).split(",")))
    place = seconds(labels.get(PLACE))
    return Allotment(
        machine=machine, gpus=gpus, since=since, place=since if place is None else place
    )


def text(labels: Labels, name: str) -> str:
    """Return a label that is a text; empty where there is none."""
    value = labels.get(name)
    return value if isinstance(value, str) else ""


def batch_limit(labels: Labels) -> int | None:
    """Return how many jobs of its batch may run at once; None: any number."""
    value = labels.get(BATCH_LIMIT)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def moment(at: float) -> str:
    """Return a moment as ISO 8601, in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat()


def seconds(moment: Any) -> float | None:
    """Return a moment in seconds since the epoch; None where it is no time that says its zone."""
    try:
        at = datetime.fromisoformat(moment)
        return at.timestamp() if at.tzinfo else None
    except (TypeError, ValueError, OverflowError):
        return None
