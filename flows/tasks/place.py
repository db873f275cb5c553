"""Choose the offer to take."""

from __future__ import annotations

from typing import Any

from prefect import get_run_logger

from blocks.registry import load_provider
from flows.run_folder import RunFolder, check_artifact_folder
from flows.tasks.step import step
from trainer.config import TrainingJob


@step
async def place(job: TrainingJob) -> dict[str, Any]:
    """Return the first offer of the job's provider, after checking where the result shall go.

    Raises:
        ConfigError: there is no such provider, or output_dir cannot take the result.
        CapacityError: it has nothing that fits.
    """
    check_artifact_folder(RunFolder.of_this_run().artifact(job.name, job.output_dir))
    offer, *_ = await load_provider(job.provider).offers(job.resources)
    gpu = f"{offer.gpu_count} × {offer.gpu_type}" if offer.gpu_count else "CPU"
    get_run_logger().info(
        "placed on %s %s (%s) at %.2f USD/h",
        offer.provider,
        offer.instance_type,
        gpu,
        offer.price_per_hour,
    )
    return offer.to_dict()
