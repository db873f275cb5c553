"""Batches in a real Prefect server, without a worker."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

from prefect import get_client
from prefect.client.schemas.actions import WorkPoolCreate

from flows.batches.plan import BatchPlan, load_plan
from flows.train import train
from tests.gateway.commanding import job_values


async def deployed(kind: str = "training") -> str:
    """Make a work pool of a type, and a deployment of the training flow on it; return its name."""
    name = f"d-{uuid4().hex[:8]}"
    async with get_client() as client:
        await client.create_work_pool(WorkPoolCreate(name=name, type=kind))
        await client.create_deployment(
            await client.create_flow(train),
            name,
            entrypoint="flows.train.train",
            work_pool_name=name,
        )
    return f"train/{name}"


def batch_file(folder: Path, deployment: str, jobs: dict[str, Any], **settings: Any) -> Path:
    """Write a batch of small jobs under a name that no other test has."""
    path = folder / "batch.json.yaml"
    defaults = {name: value for name, value in job_values().items() if name != "name"}
    settings = {"name": f"b-{uuid4().hex[:8]}", "deployment": deployment, **settings}
    path.write_text(json.dumps({"defaults": defaults, **settings, "jobs": jobs}))
    return path


def plan_of(folder: Path, deployment: str, jobs: dict[str, Any], **settings: Any) -> BatchPlan:
    """Return that batch."""
    return load_plan(batch_file(folder, deployment, jobs, **settings))
