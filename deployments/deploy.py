"""Make the work pool, its queues and the deployments on a Prefect server: `make deploy`."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.workers.process import ProcessWorker

from trainer.contract.own_python import own_python

POOL = "local-gpu"
CLOUD_POOL = "cloud"
DESCRIPTIONS = {
    POOL: "Training on this computer's GPUs, or its CPU. Start: make worker",
    CLOUD_POOL: "Training on rented machines, and reconcile. Start: make worker",
}
QUEUES = {"high": 1, "default": 2, "low": 3}
"""Work queues and their priorities; 1 goes first."""
HERE = Path(__file__).resolve().parent


def main() -> int:
    """Deploy to the server that Prefect is configured for; return the exit code."""
    asyncio.run(make_pools())
    return deploy()


def gpu_count() -> int:
    """Return how many jobs may train here at once: one per GPU, or one on the CPU."""
    from blocks.providers.local.gpus import gpus

    return max(1, len(gpus()))


async def make_pools() -> None:
    """Create the pools and their queues, or bring existing ones up to date.

    The GPUs here limit what trains here at once; rented machines are limited by their price.
    """
    async with get_client() as client:
        for name, concurrency in {POOL: gpu_count(), CLOUD_POOL: None}.items():
            await _make_pool(client, name, concurrency)
            for queue, priority in QUEUES.items():
                await _make_queue(client, name, queue, priority)


async def _make_pool(client: PrefectClient, name: str, concurrency: int | None) -> None:
    try:
        await client.read_work_pool(name)
    except ObjectNotFound:
        await client.create_work_pool(
            WorkPoolCreate(
                name=name,
                type="process",
                description=DESCRIPTIONS[name],
                base_job_template=ProcessWorker.get_default_base_job_template(),
                concurrency_limit=concurrency,
            )
        )
    else:
        await client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=concurrency))


async def _make_queue(client: PrefectClient, pool: str, name: str, priority: int) -> None:
    try:
        await client.create_work_queue(name=name, work_pool_name=pool, priority=priority)
    except ObjectAlreadyExists:
        queue = await client.read_work_queue_by_name(name, work_pool_name=pool)
        await client.update_work_queue(queue.id, priority=priority)


def deploy() -> int:
    """Let Prefect's own command read prefect.yaml; return its exit code."""
    examples = HERE.parent / "examples"
    return subprocess.run(  # noqa: S603 - our own command
        [
            *own_python("-m", "prefect", "--no-prompt", "deploy", "--all"),
            *("--prefect-file", str(HERE / "prefect.yaml")),
        ],
        env={**os.environ, "TRAINING_ORCHESTRATOR_EXAMPLES": str(examples)},
        cwd=HERE.parent,
        check=False,
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
