"""Documents 003 and 004: what trainers elsewhere report, with the token of their job."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from prefect.client.orchestration import PrefectClient
from prefect.states import Running
from pydantic import BaseModel, ConfigDict, Field

from flows.notifying.of_alerts import tell_of_alert
from flows.reporting.alerts import Alert
from flows.shown import job_state
from gateway.access.callers import Caller
from gateway.metrics.holding import Metrics
from gateway.operations.creating import start_job
from gateway.operations.finding import find_job
from gateway.operations.showing import handed_over
from gateway.prefect.client import JobRun
from gateway.rest.configured import Asked, Settings
from gateway.rest.documents.agent import Executed
from gateway.rest.documents.answers import AnswerBody
from gateway.rest.documents.training_jobs import Key
from gateway.rest.guards import Reader, Reporter, Submitter
from gateway.rest.prefect_link import Prefect
from gateway.rest.problems import RequestRefused, responses, there_already

router = APIRouter(
    prefix="/api", tags=["reports"], responses=responses(400, 401, 403, 404, 409, 413, 429)
)
MOST_RECORDS, MOST_LINES = 1000, 1000


class MetricRecord(BaseModel):
    """What was measured at one step: numbers by name, whatever the trainer calls them."""

    model_config = ConfigDict(extra="allow")

    step: int = Field(ge=0)
    # Strict: or `false` would be the year 1970.
    timestamp: str | Annotated[float, Field(strict=True)] | None = None


class MetricsOfJob(BaseModel):
    """Measurements of one job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"job_id": "my_job_123", "metrics": [{"step": 100, "epoch": 1, "train_loss": 0.45}]}
            ]
        }
    )

    job_id: str
    metrics: list[MetricRecord] = Field(max_length=MOST_RECORDS)


class MetricsReport(BaseModel):
    """Measurements of the job in the path."""

    metrics: list[MetricRecord] = Field(max_length=MOST_RECORDS)


class Received(AnswerBody):
    """What was taken."""

    job_id: str
    received: int


class StoredMetrics(AnswerBody):
    """What is stored of a job, one record a step."""

    job_id: str
    metrics: list[dict[str, Any]]


class AlertReport(BaseModel):
    """Something that happened to a training."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    type: Alert
    job_id: str = Field(min_length=1, max_length=100)
    user_id: str | None = None


class AlertTold(AnswerBody):
    """Who is told of an alert."""

    job_id: str
    told: int
    """How many destinations."""


class StatusReport(BaseModel):
    """Where a training elsewhere says that it stands."""

    status: Literal["pending", "running", "paused", "completed", "failed", "cancelled"]
    message: str | None = Field(default=None, max_length=2000)


class LinesReport(BaseModel):
    """Lines of a training's log."""

    logs: list[str] = Field(max_length=MOST_LINES)


@router.post("/training/local/metrics", summary="Report metrics")
async def report(
    prefect: Prefect, store: Metrics, caller: Reporter, body: MetricsOfJob
) -> Received:
    """Store measurements; those of a step that are sent again are stored once."""
    return await _store(prefect, store, caller, body.job_id, body.metrics)


@router.put("/training/local/{job_id}/metrics", summary="Report metrics")
async def report_of(
    prefect: Prefect, store: Metrics, caller: Reporter, job_id: str, body: MetricsReport
) -> Received:
    """Store measurements of one job."""
    return await _store(prefect, store, caller, job_id, body.metrics)


@router.get("/training/local/{job_id}/metrics", summary="The metrics of a job")
async def metrics(
    prefect: Prefect,
    store: Metrics,
    caller: Reader,
    job_id: str,
    after: Annotated[int, Query(ge=-1, description="Only later steps than this")] = -1,
) -> StoredMetrics:
    """Return what is stored of a job, one record a step."""
    run = await find_job(prefect, caller, job_id)
    return StoredMetrics(job_id=job_id, metrics=await store.records(str(run.id), after=after))


@router.patch("/training/local/{job_id}/status", summary="Report a status")
async def report_status(
    prefect: Prefect, caller: Reporter, job_id: str, body: StatusReport
) -> Received:
    """Show where a training elsewhere says that it stands, as the message of its job.

    The state of a job is its flow's to set: what a trainer says of itself never ends a job.
    """
    run = await _reported(prefect, caller, job_id)
    if run.state and run.state.type == "RUNNING":
        text = f"{body.status}: {body.message}" if body.message else body.status
        state: Any = Running(name=run.state.name or "Running", message=f"the trainer says {text}")
        await prefect.set_flow_run_state(run.id, state)
    return Received(job_id=job_id, received=1)


@router.post("/training/local/{job_id}/logs", summary="Report log lines")
async def report_logs(
    prefect: Prefect, caller: Reporter, job_id: str, body: LinesReport
) -> Received:
    """Add lines to the log of a job in Prefect."""
    from prefect.client.schemas.actions import LogCreate
    from prefect.types._datetime import now

    run = await _reported(prefect, caller, job_id)
    lines = [
        LogCreate(name="reported", level=20, message=line, timestamp=now("UTC"), flow_run_id=run.id)
        for line in body.logs
    ]
    if lines:
        await prefect.create_logs(lines)
    return Received(job_id=job_id, received=len(lines))


@router.post("/alerts/trigger", summary="Report an alert")
async def alert(prefect: Prefect, caller: Reporter, body: AlertReport) -> AlertTold:
    """Tell whom it concerns of what happened to a training."""
    if not caller.may_report_for(body.job_id):
        raise _refused(body.job_id)
    if caller.project is not None:
        await find_job(prefect, caller, body.job_id)
    told = await asyncio.to_thread(tell_of_alert, body.model_dump(mode="json"))
    return AlertTold(job_id=body.job_id, told=told)


@router.post(
    "/training/deploy/runpod",
    status_code=201,
    responses=there_already(Executed),
    summary="Train on RunPod",
)
async def deploy_on_runpod(
    prefect: Prefect,
    caller: Submitter,
    settings: Settings,
    request: Asked,
    answer: Response,
    key: Key = None,
) -> Executed:
    """Create a job and submit it to RunPod."""
    run, is_new = await start_job(
        prefect, caller, request, key, provider="runpod", deployments=settings.deployments
    )
    if not is_new:
        answer.status_code = 200
    return Executed.model_validate(await handed_over(prefect, run))


async def _store(
    client: PrefectClient,
    store: Metrics,
    caller: Caller,
    job_id: str,
    records: list[MetricRecord],
) -> Received:
    run = await _reported(client, caller, job_id)
    values = [record.model_dump(exclude_none=True) for record in records]
    await store.append(str(run.id), values)
    return Received(job_id=job_id, received=len(values))


async def _reported(client: PrefectClient, caller: Caller, job_id: str) -> JobRun:
    """Return the run of a job for which a caller may report; one that is over takes nothing more."""
    run = await find_job(client, caller, job_id)
    if not (caller.may_report_for(job_id) or caller.may_report_for(str(run.id))):
        raise _refused(job_id)
    if job_state(run).at_rest and caller.job_id is not None:
        raise RequestRefused(409, f"Job {job_id!r} is {job_state(run)}.", job_id=job_id)
    return run


def _refused(job_id: str) -> RequestRefused:
    return RequestRefused(403, f"This token is not that of job {job_id!r}.", job_id=job_id)
