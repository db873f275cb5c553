"""The one message of a batch, in the place of those of its jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from prefect.client.schemas.objects import FlowRun

from blocks.home import runs as run_folders
from flows.logger import logger
from flows.notifying.destinations import Destination, destinations
from flows.notifying.outbox import Outbox
from flows.scheduling.labels import USER, text
from flows.shown import job_state
from trainer.config.notifications import Notable, Notifications
from trainer.contract.job_directory import JobState

COUNTS = ("completed", "failed", "stopped", "skipped")
MOST_LINES = 20


def tell_of_batch(runs: Sequence[FlowRun], event: Mapping[str, Any]) -> None:
    """Let people be told of a batch all of whose jobs are at their end.

    Args:
        runs: of its jobs.
        event: the one of Prefect; see `flows.batches.completion`.
    """
    try:
        if _is_told_here(runs):
            _tell(runs, event)
    except Exception as error:  # noqa: BLE001 - the outer edge: no message is worth a batch
        logger().warning("nobody is told that a batch is at its end: %s", error)


def _is_told_here(runs: Sequence[FlowRun]) -> bool:
    """Whether this computer worked on the batch last: others that look at it tell nobody."""
    begun = [run for run in runs if run.start_time]
    last = max(
        begun, key=lambda run: run.end_time or datetime.max.replace(tzinfo=UTC), default=None
    )
    return last is None or (run_folders() / str(last.id)).is_dir()


def _tell(runs: Sequence[FlowRun], event: Mapping[str, Any]) -> None:
    told = event["payload"]
    failed = [run for run in runs if job_state(run) is JobState.FAILED]
    names = {id: name for name, id in told["jobs"].items()}
    lines = [
        f"{names[str(run.id)]}: {run.state and run.state.message}" for run in failed[:MOST_LINES]
    ]
    if len(failed) > MOST_LINES:
        lines.append(f"and {len(failed) - MOST_LINES} more")
    counts = {name: told.get(name) or 0 for name in COUNTS}
    ours = {
        "id": event["id"],
        "what": Notable.BATCH,
        "at": time.time(),
        "job": {"id": told["batch"], "name": told["batch"], "user": told.get("user") or ""},
        "reason": ", ".join(f"{count} {name}" for name, count in counts.items() if count),
        "lines": lines,
        **counts,
        **({"cost_usd": cost} if (cost := told.get("cost_usd")) else {}),
    }
    for receiver in _receivers(runs):
        Outbox.of(receiver).add(ours)


def _receivers(runs: Sequence[FlowRun]) -> list[Destination]:
    """Return who is told of the batch: whom any of its jobs names, and whom the installation does."""
    found: dict[str, Destination] = {}
    for run in runs:
        job = run.parameters.get("job")
        given = job.get("notifications") if isinstance(job, dict) else None
        own = Notifications.model_validate(given) if given else None
        for one in destinations(text(run.labels, USER), own):
            if Notable.BATCH in one.events:
                found.setdefault(one.id, one)
    return list(found.values())
