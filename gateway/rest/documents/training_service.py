"""Document 001: a training service, whose clients name an endpoint, a version and a model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict, Field

from flows.shown import job_state
from gateway.operations import showing
from gateway.operations.controlling import cancel_job
from gateway.operations.creating import JobId, JobRequest, start_job
from gateway.operations.finding import find_job, is_draft
from gateway.rest.configured import Settings
from gateway.rest.documents.answers import JobStatus
from gateway.rest.documents.training_jobs import Key
from gateway.rest.guards import Administrator, Reader, Submitter
from gateway.rest.prefect_link import Prefect
from gateway.rest.problems import RequestRefused, responses, there_already
from gateway.rest.settings import ServiceSettings
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState

router = APIRouter(
    prefix="/api/v1/training", tags=["training"], responses=responses(400, 401, 403, 404, 409, 429)
)


class StartRequest(BaseModel):
    """Which model is to learn the pairs of which endpoint."""

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        json_schema_extra={
            "examples": [
                {
                    "train_id": "unique_training_id",
                    "endpoint_id": "endpoint_uuid",
                    "version": 1,
                    "training_pairs_count": 100,
                    "slm_type": "microsoft/DialoGPT-small",
                    "source_llm": "gpt-3.5-turbo",
                    "provider": "runpod",
                }
            ]
        },
    )

    train_id: JobId
    endpoint_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    version: int = Field(ge=0)
    slm_type: str = Field(min_length=1)
    """The model."""
    training_pairs_count: int | None = Field(default=None, ge=1)
    """How many of the pairs are learned, from the first on; null: all."""
    source_llm: str | None = None
    """Which model wrote the answers; kept with the job."""
    provider: str = "local"
    dataset_path: str | None = None
    """The pairs; null: where TRAINING_ORCHESTRATOR_PAIRS says."""


class ServiceStatus(JobStatus):
    """Where a training stands, as document 001 says it too."""

    train_id: str = ""
    status: str = ""
    """The state again."""


@router.post(
    "/start",
    status_code=201,
    responses=there_already(ServiceStatus),
    summary="Start a training",
)
async def start(
    prefect: Prefect,
    caller: Submitter,
    request: StartRequest,
    settings: Settings,
    answer: Response,
    key: Key = None,
) -> ServiceStatus:
    """Create a training of an endpoint's pairs and submit it."""
    asked = _request(request, settings)
    notes = request.model_dump(include={"endpoint_id", "version", "source_llm"}, exclude_none=True)
    run, is_new = await start_job(
        prefect, caller, asked, key, deployments=settings.deployments, notes=notes
    )
    if not is_new:
        answer.status_code = 200
    return _told(request.train_id, await showing.status_of_job(prefect, run))


@router.get("/{train_id}/status", summary="Where a training stands")
async def status(prefect: Prefect, caller: Reader, train_id: str) -> ServiceStatus:
    """Say where a training stands."""
    run = await find_job(prefect, caller, train_id)
    return _told(train_id, await showing.status_of_job(prefect, run))


@router.post("/{train_id}/cancel", summary="Cancel a training")
async def cancel(prefect: Prefect, caller: Submitter, train_id: str) -> ServiceStatus:
    """Have a training save and stop."""
    run = await cancel_job(prefect, caller, train_id)
    return _told(train_id, await showing.status_of_job(prefect, run))


@router.post("/{train_id}/completed", summary="Mark a training as completed")
async def completed(prefect: Prefect, caller: Administrator, train_id: str) -> ServiceStatus:
    """Mark a training that nobody here executes as completed; for internal use.

    One that is executed here completes when its result has arrived and is verified, and not before.
    """
    run = await find_job(prefect, caller, train_id)
    state = job_state(run)
    if state is not JobState.COMPLETED:
        if not is_draft(run):
            raise RequestRefused(
                409,
                f"Training {train_id!r} is {state}: it completes by itself, when its result has "
                "arrived and is verified.",
            )
        done: Any = Completed(message="said to be completed by its service")
        await prefect.set_flow_run_state(run.id, done, force=True)
        run = await find_job(prefect, caller, train_id)
    return _told(train_id, await showing.status_of_job(prefect, run))


def _request(request: StartRequest, settings: ServiceSettings) -> JobRequest:
    path = request.dataset_path
    if path is None and settings.pairs is None:
        raise ConfigError(
            "dataset_path is missing, and TRAINING_ORCHESTRATOR_PAIRS says nowhere pairs are.",
            "Give dataset_path, or set TRAINING_ORCHESTRATOR_PAIRS to a path such as "
            "s3://pairs/{endpoint_id}/{version}.jsonl.",
        )
    if path is None and settings.pairs is not None:
        path = settings.pairs.replace("{endpoint_id}", request.endpoint_id)
        path = path.replace("{version}", str(request.version))
    dataset: dict[str, Any] = {"path": path}
    if request.training_pairs_count is not None:
        dataset["max_rows"] = request.training_pairs_count
    return JobRequest(
        job_id=request.train_id,
        job={
            "name": request.train_id,
            "training": {"model": request.slm_type, "dataset": dataset},
        },
        provider=request.provider,
    )


def _told(train_id: str, status: dict[str, Any]) -> ServiceStatus:
    return ServiceStatus.model_validate(status | {"train_id": train_id, "status": status["state"]})
