"""Hire the machine, or adopt the one that an earlier attempt hired."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from blocks.models import Offer
from blocks.registry import load_provider
from flows.tasks.step import step
from trainer.config import TrainingJob


@step
async def provision(job: TrainingJob, offer: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the instance that bears `name`, hiring it when there is none."""
    provider = load_provider(job.provider)
    instance = await provider.find(name)
    if instance:
        get_run_logger().info("adopted %s from an earlier attempt", instance.id)
    else:
        instance = await provider.launch(Offer.from_dict(offer), name, ssh_public_key=None)
        get_run_logger().info("job directory %s", instance.workspace)
    return instance.to_dict()
