"""`GET /health`: whether the service and what it needs are well, and the GPUs of this computer."""

from __future__ import annotations

import asyncio
import platform
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from blocks.providers.local.gpu import Gpu
from blocks.providers.local.gpus import inventory
from gateway.rest.prefect_link import Prefect

router = APIRouter(tags=["health"])


class GpuHealth(BaseModel):
    """One GPU of the computer that answers."""

    uuid: str
    name: str
    memory_total_gb: float
    """GiB, as all memory here."""
    memory_used_gb: float
    utilization_percent: float | None
    temperature_celsius: float | None
    state: str
    """free, or why no job can have it."""


class Gpus(BaseModel):
    """The GPUs of the computer that answers."""

    available: bool
    count: int
    devices: list[GpuHealth]


class Health(BaseModel):
    """How the service is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "status": "healthy",
                    "version": "0.1.0",
                    "prefect": "healthy",
                    "python": "3.11.2",
                    "gpu": {"available": False, "count": 0, "devices": []},
                }
            ]
        }
    )

    status: Literal["healthy", "unhealthy"]
    version: str
    prefect: str
    """healthy, or why its API does not answer."""
    python: str
    gpu: Gpus


@router.get("/health", summary="How the service is")
async def health(prefect: Prefect) -> Health:
    """Say whether the service and Prefect's API are well."""
    error, gpus = await asyncio.gather(prefect.api_healthcheck(), asyncio.to_thread(inventory))
    return Health(
        status="unhealthy" if error else "healthy",
        version=version("training-orchestrator"),
        prefect=f"{type(error).__name__}: {error}" if error else "healthy",
        python=platform.python_version(),
        gpu=Gpus(available=bool(gpus), count=len(gpus), devices=list(map(_health_of, gpus))),
    )


def _health_of(gpu: Gpu) -> GpuHealth:
    return GpuHealth(
        uuid=gpu.uuid,
        name=gpu.name,
        memory_total_gb=gpu.total_gb,
        memory_used_gb=gpu.total_gb - gpu.free_gb,
        utilization_percent=gpu.utilisation,
        temperature_celsius=gpu.temperature,
        state=gpu.why_not or "free",
    )
