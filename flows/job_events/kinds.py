"""The events that a job has, and what Prefect needs to know of a job in each of them.

Nothing here imports Prefect. An event's id follows from the job, what happened, and how often the
job had come to rest before: whoever notes it, in whatever process, notes the same event.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID, uuid5

from flows.scheduling.labels import BATCH, PROJECT, USER, text
from flows.shown import FLOW

PREFIX = "training-orchestrator."


class Happening(StrEnum):
    """What happens to a job."""

    SUBMITTED = "submitted"
    QUEUED = "queued"
    """It waits for its turn."""
    STARTED = "started"
    """It trains for the first time."""
    PAUSED = "paused"
    PREEMPTED = "preempted"
    """It was paused for another job, and is back in the queue."""
    RESUMED = "resumed"
    """It trains again after it had come to rest."""
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"


BEGINS = frozenset({Happening.STARTED, Happening.RESUMED})
"""From here on a job has its GPUs."""
RESTS = frozenset(
    {Happening.PAUSED, Happening.PREEMPTED}
    | {Happening.COMPLETED, Happening.FAILED, Happening.STOPPED}
)
ONCE = frozenset({Happening.SUBMITTED, Happening.STARTED, Happening.COMPLETED})
"""They happen to a job once, however often it comes to rest."""


class QueuedRun(Protocol):
    """A flow run as Prefect's client gives it, or as anything else that has these."""

    @property
    def id(self) -> UUID:
        """The job's id."""

    @property
    def name(self) -> str:
        """The job's name."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What the flow was given: `job`."""

    @property
    def labels(self) -> Mapping[str, Any]:
        """Whose it is; see `flows.scheduling.labels`."""

    @property
    def tags(self) -> Sequence[str]:
        """Prefect's tags."""


def event_name(what: Happening) -> str:
    """Return the name by which automations know it."""
    return f"{PREFIX}job.{what}"


def event_id(run_id: UUID, what: Happening, rests: int) -> UUID:
    """Return the id of an event; the same wherever it is noted.

    Args:
        run_id: the job's.
        what: happens.
        rests: how often the job had come to rest before, and gone on.
    """
    return uuid5(run_id, event_name(what) if what in ONCE else f"{event_name(what)}/{rests}")


def facts_of(run: QueuedRun) -> dict[str, Any]:
    """Return what all events of a job say of it: resource, related resources, and the payload."""
    job = run.parameters.get("job")
    job = job if isinstance(job, dict) else {}
    training = job.get("training")
    training = training if isinstance(training, dict) else {}
    whose = {
        "user": text(run.labels, USER),
        "project": text(run.labels, PROJECT),
        "batch": text(run.labels, BATCH),
    }
    resource = {
        "prefect.resource.id": f"prefect.flow-run.{run.id}",
        "prefect.resource.name": run.name,
        **{f"{PREFIX}{name}": value for name, value in whose.items() if value},
    }
    related = [*_of_prefect(run)]
    related += [
        _related(f"{PREFIX}{name}.{value}", name, value) for name, value in whose.items() if value
    ]
    payload = {
        "job": {
            "id": str(run.id),
            "name": run.name,
            "method": training.get("method", "sft"),
            "model": training.get("model", ""),
            "provider": job.get("provider", "local"),
        },
        **whose,
    }
    return {"resource": resource, "related": related, "payload": payload}


def event_of(
    facts: Mapping[str, Any], what: Happening, *, rests: int, at: datetime, **payload: Any
) -> dict[str, Any]:
    """Return an event as Prefect's API takes it.

    Args:
        facts: see `facts_of`.
        what: happens.
        rests: see `event_id`.
        at: when.
        payload: what this event says besides.
    """
    run_id = UUID(facts["payload"]["job"]["id"])
    return {
        "id": str(event_id(run_id, what, rests)),
        "event": event_name(what),
        "occurred": at.isoformat(),
        "resource": facts["resource"],
        "related": facts["related"],
        "payload": plain({**facts["payload"], **payload}),
    }


def plain(value: Any) -> Any:
    """Return a value without numbers that JSON does not have, such as the loss of a spoilt training."""
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _of_prefect(run: QueuedRun) -> Iterator[dict[str, str]]:
    """Yield flow, deployment, queue, pool and tags, with the roles that automations look for."""
    for kind, name in (
        ("flow", FLOW),
        ("deployment", None),
        ("work-queue", getattr(run, "work_queue_name", None)),
        ("work-pool", getattr(run, "work_pool_name", None)),
    ):
        if id := getattr(run, f"{kind.replace('-', '_')}_id", None):
            yield _related(f"prefect.{kind}.{id}", kind, name)
    for tag in sorted(run.tags):
        yield _related(f"prefect.tag.{tag}", "tag", None)


def _related(id: str, role: str, name: str | None) -> dict[str, str]:
    named = {"prefect.resource.name": name} if name else {}
    return {"prefect.resource.id": id, "prefect.resource.role": role, **named}
