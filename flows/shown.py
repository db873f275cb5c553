"""How a job appears in Prefect: the states, and the names of what it leaves there.

| job state    | Prefect's type and name                    |
| ------------ | ------------------------------------------ |
| created      | SCHEDULED "Queued", PENDING                |
| initializing | RUNNING "Initializing"; "Running" at first |
| running      | RUNNING "Running", SCHEDULED "Reviving"    |
| paused       | PAUSED "Paused"                            |
| completed    | COMPLETED "Completed"                      |
| failed       | FAILED "Failed"                            |
| stopped      | CANCELLED "Stopped"                        |

Prefect's engine sets "Running" as a flow begins, which says nothing of the training: ours has a
message.

Nothing here imports Prefect, which takes two seconds: programs that only read do without it.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from trainer.contract.job_directory import JobState

FLOW = "train"
PAUSING = "Pausing"
"""The state's name by which a running job is asked to pause."""
QUEUED = "Queued"
"""The name of the state of a run that waits; its message says why."""
INITIALIZING = "Initializing"
RUNNING = "Running"
TRAINS = "the training is followed"
"""The message of the state that says so, by which it differs from Prefect's own "Running"."""
REVIVING = "Reviving"
"""Of a run that waits for a worker to attach again: its training goes on meanwhile."""

PROGRESS, CURVE, METRICS = "training-progress", "training-curve", "training-metrics"
REPORT, MACHINES = "training-report", "training-machines"
"""The keys of a run's artifacts."""
IN_USE = "in use"
"""What the table of machines says of one that was not given back."""
LOGGER = "train.log"
"""The name of the logger under which Prefect has the lines of the training log."""

STATE_OF_TYPE = {
    "SCHEDULED": JobState.CREATED,
    "PENDING": JobState.CREATED,
    "RUNNING": JobState.RUNNING,
    "CANCELLING": JobState.RUNNING,
    "PAUSED": JobState.PAUSED,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "CRASHED": JobState.FAILED,
    "CANCELLED": JobState.STOPPED,
}
"""The job's state by Prefect's type of state, as its API writes it."""

SHORT = 8
LEAST = 4  # characters of an id; fewer fit too many jobs
PART = re.compile(r"[0-9a-fA-F-]{1,36}")
PICTURE = re.compile(r"!\[[^\]]*\]\([^)]*\)\n*")


class ShownState(Protocol):
    """The state of a run: Prefect's own object, or what its API answers."""

    @property
    def type(self) -> str:
        """Prefect's type, such as RUNNING."""

    @property
    def name(self) -> str | None:
        """The state's name, such as Initializing."""

    @property
    def message(self) -> str | None:
        """The reason, if one was given."""


class ShownRun(Protocol):
    """A flow run: Prefect's own object, or what its API answers."""

    @property
    def id(self) -> UUID:
        """The job's id."""

    @property
    def name(self) -> str:
        """The job's name."""

    @property
    def state(self) -> ShownState | None:
        """Where it stands."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What the flow was given: `job`."""

    @property
    def created(self) -> datetime | None:
        """When it was asked for."""

    @property
    def start_time(self) -> datetime | None:
        """When it first ran."""

    @property
    def estimated_run_time(self) -> timedelta:
        """How long it was in a state of work, the present one included."""


def job_state(run: ShownRun) -> JobState:
    """Return the job's state that a flow run stands for."""
    return state_of(run.state)


def state_of(state: ShownState | None) -> JobState:
    """Return the job's state that a state of a flow run stands for, the present one or another."""
    if state is None:
        return JobState.CREATED
    if state.type == "RUNNING":
        is_engines = state.name == RUNNING and not state.message
        is_initializing = is_engines or state.name == INITIALIZING
        return JobState.INITIALIZING if is_initializing else JobState.RUNNING
    if state.type == "SCHEDULED" and state.name == REVIVING:
        return JobState.RUNNING
    return STATE_OF_TYPE[state.type]


def is_over(run: ShownRun) -> bool:
    """Whether a run is at rest; one that crashed is not, because it is executed again."""
    return job_state(run).at_rest and not (run.state and run.state.type == "CRASHED")


def short_id(run_id: UUID | str) -> str:
    """Return the end of a run's id, which is how people refer to it.

    The end, because ids from Prefect's scheduler begin with the time: runs that are scheduled
    together have the same beginning.
    """
    return str(run_id)[-SHORT:]


def without_pictures(markdown: str) -> str:
    """Return a report for a terminal, which shows no pictures."""
    return PICTURE.sub("", markdown)


def is_part(run_id: UUID | str, text: str) -> bool:
    """Whether a text is a run's id, or enough of its beginning or its end."""
    whole, part = str(run_id), text.lower()
    return len(part) >= LEAST and (whole.startswith(part) or whole.endswith(part))
