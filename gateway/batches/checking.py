"""Look at a batch and at everything that its jobs name, before anything of it is submitted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from flows.batches.plan import BatchPlan, PlannedJob, load_plan
from flows.batches.references import has_reference
from flows.preflight import PREFLIGHT, seen_from_here, subject_of
from gateway.other_names import answers
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.preflight.table import Needs, refuse

OF_LEARNING = {
    *("learning_rate", "seed", "num_train_epochs", "max_steps", "weight_decay", "warmup_steps"),
    *("lr_scheduler_type", "per_device_train_batch_size", "gradient_accumulation_steps", "optim"),
    *("beta", "peft", "save_steps", "eval_steps", "logging_steps"),
}
"""Settings that say nothing of rows: jobs that differ in these alone have their rows read once."""


def checked_plan(path: Path, name: str | None, say: Callable[[str], None]) -> BatchPlan:
    """Return the batch in a file after looking at what can be seen of it from here.

    Args:
        path: the file.
        name: of the batch, instead of the one in the file.
        say: takes what is worth knowing and no mistake, such as what only the worker has.

    Raises:
        ConfigError: the first thing that is wrong, with the job that it is in.
    """
    plan = load_plan(path, name)
    said: set[str] = set()
    read: set[str] = set()
    for one in plan.jobs:
        try:
            notes = _look(one, read)
        except OrchestratorError as error:
            raise ConfigError(
                f"{plan.source}: jobs.{one.name}: {error.message}", error.suggestion
            ) from None
        for words in notes:
            if words not in said:
                say(words)
        said |= set(notes)
    return plan


def _look(one: PlannedJob, read: set[str]) -> list[str]:
    """Return what is to be noted of a job.

    Raises:
        OrchestratorError: something is wrong with it.
    """
    subject = subject_of(one.job, for_worker=True)
    rows = _rows_of(one)
    have = seen_from_here(one.job, for_worker=True) - ({Needs.ROWS} if rows in read else set())
    refuse(PREFLIGHT, subject, have)
    read.add(rows)
    return [
        *answers(one.job.providers),
        *(
            f"{field}: {name} is not on this computer; the worker must have it"
            for field, name in subject.away.items()
            if not has_reference(name)
        ),
    ]


def _rows_of(one: PlannedJob) -> str:
    asked = one.job.training.model_dump(mode="json", exclude=OF_LEARNING)
    return json.dumps(asked, sort_keys=True)
