"""Hire what the job trains on, or adopt what an earlier attempt hired."""

from __future__ import annotations

import functools
from typing import Any

from prefect import get_run_logger

from blocks.models import Instance
from flows.renting.budget import Budget
from flows.renting.hiring import Hiring
from flows.renting.journal import Journal
from flows.renting.turns import in_turn
from flows.run_folder import RunFolder
from flows.tasks.step import step
from trainer.config import TrainingJob


@functools.partial(step, name="provision")
async def adopt(job: TrainingJob) -> list[dict[str, Any]]:
    """Return the instances that the run has, by rank; none when it has to be placed anew.

    Raises:
        OrchestratorError: what became of a machine that was still booting cannot be learned.
    """
    return _told(await in_turn(_hiring(job).adopted))


@step
async def provision(job: TrainingJob) -> list[dict[str, Any]]:
    """Return the instances to train on, by rank; each answers, and is what was ordered.

    Raises:
        CapacityError: no offer led to a machine; it names each that was tried.
        BudgetExceeded: the money ran out on the way.
    """
    return _told(await _hiring(job).machines())


def _hiring(job: TrainingJob) -> Hiring:
    run = RunFolder.of_this_run()
    journal = Journal.of(run)
    return Hiring(job, run, journal, Budget(job, journal))


def _told(instances: list[Instance]) -> list[dict[str, Any]]:
    for instance in instances:
        get_run_logger().info("job directory %s on %s", instance.workspace, instance.id)
    return [instance.to_dict() for instance in instances]
