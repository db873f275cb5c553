"""Hire a machine, or adopt the one that an earlier attempt hired."""

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
async def provision(job: TrainingJob) -> dict[str, Any]:
    """Return the instance to train on, ready: it answers, and is what was ordered.

    Raises:
        CapacityError: no offer led to a machine; it names each that was tried.
        BudgetExceeded: the money ran out on the way.
    """
    run = RunFolder.of_this_run()
    journal = Journal.of(run)
    instance = await Hiring(job, run, journal, Budget(job, journal)).machine()
    get_run_logger().info("job directory %s on %s", instance.workspace, instance.id)
    return instance.to_dict()
