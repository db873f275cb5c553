"""A batch in Prefect: what the labels and tags of its runs say. Nothing here imports Prefect."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from flows.batches.plan import BatchPlan, PlannedJob
from flows.scheduling.dependencies import Member, after_of, as_label
from flows.scheduling.labels import AFTER, BATCH, BATCH_LIMIT, PREFIX, LabelValue, of_submit, text
from flows.shown import ShownRun, ShownState, is_over, job_state
from trainer.contract.job_directory import JobState

JOB = f"{PREFIX}job"
"""The job's name in its batch."""
STOPS = f"{PREFIX}batch-stops"
"""Whether its batch starts nothing more once a job of it has failed."""
RETRIES = f"{PREFIX}retries"
"""When it is tried again after a failure; see `flows.batches.retries`."""
TRIED = f"{PREFIX}retried"
"""How often it was tried again."""
BODY = f"{PREFIX}body"
"""A hash of what was submitted."""
TAG = "batch"
"""The tag of all runs of batches."""
SKIPPED = "Skipped"
"""The name of the state, in Prefect, of a job that could never start."""

Labels = Mapping[str, Any]


class BatchState(ShownState, Protocol):
    """The state of a run, with the time at which it was set."""

    @property
    def timestamp(self) -> datetime | None:
        """When it was set."""


class BatchRun(ShownRun, Protocol):
    """A run of a batch: Prefect's own object, or what its API answers."""

    @property
    def state(self) -> BatchState | None:
        """Where it stands."""

    @property
    def labels(self) -> Labels:
        """What it says of its job."""

    @property
    def end_time(self) -> datetime | None:
        """When it ended."""


def tag_of(batch: str) -> str:
    """Return the tag of the runs of one batch."""
    return f"{TAG}:{batch}"


def idempotency_key(batch: str, job: str) -> str:
    """Return the key by which a job of a batch is submitted once, however often it is tried."""
    return f"{batch}/{job}"


def labels_of(plan: BatchPlan, planned: PlannedJob) -> dict[str, LabelValue]:
    """Return the labels of a run of a batch."""
    found = of_submit(project=planned.job.project) | {
        BATCH: plan.name,
        JOB: planned.name,
        BODY: planned.digest(),
    }
    if planned.after:
        found[AFTER] = as_label(planned.after)
    if plan.settings.max_concurrent:
        found[BATCH_LIMIT] = plan.settings.max_concurrent
    if plan.settings.on_failure == "stop":
        found[STOPS] = True
    if planned.retries:
        found[RETRIES] = planned.retries.as_label()
    return found


def member(run: ShownRun, labels: Labels) -> Member:
    """Return a run as a job of its batch."""
    state = job_state(run)
    if state.at_rest and state is not JobState.PAUSED and not is_over(run):
        state = JobState.RUNNING  # it crashed, and is executed again
    message = (run.state.message if run.state else None) or ""
    return Member(
        id=str(run.id),
        name=text(labels, JOB) or run.name,
        state=state,
        why=first_sentence(message) if state in {JobState.FAILED, JobState.STOPPED} else "",
        after=after_of(labels.get(AFTER)),
        stops=labels.get(STOPS) is True,
    )


def first_sentence(message: str) -> str:
    """Return the first sentence of a message, for another sentence to quote it."""
    return message.strip().split("\n", 1)[0].split(". ", 1)[0].rstrip(".")[:200]


def is_skipped(run: ShownRun) -> bool:
    """Whether a run was ended because it could never start."""
    return run.state is not None and run.state.name == SKIPPED
