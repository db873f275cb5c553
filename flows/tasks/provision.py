"""Hire what the job trains on, or adopt what an earlier attempt hired."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from flows.renting.budget import Budget
from flows.renting.hiring import Hiring
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.tasks.step import step
from trainer.config import TrainingJob


@step
async def provision(job: TrainingJob) -> list[dict[str, Any]]:
    """Return the instances to train on, by rank; each answers, and is what was ordered.

    Raises:
        CapacityError: no offer led to a machine; it names each that was tried.
        BudgetExceeded: the money ran out on the way.
    """
    run = RunFolder.of_this_run()
    journal = Journal.of(run)
    instances = await Hiring(job, run, journal, Budget(job, journal)).machines()
    for instance in instances:
        get_run_logger().info("job directory %s on %s", instance.workspace, instance.id)
    return [instance.to_dict() for instance in instances]
