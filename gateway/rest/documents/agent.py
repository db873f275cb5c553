"""Document 004: a training agent, whose jobs train on the computers of this service's workers."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import Field

from gateway.agent.reporting import ToBackend
from gateway.operations import showing
from gateway.operations.controlling import cancel_job, pause_job, resume_job
from gateway.operations.creating import JobRequest, start_job
from gateway.operations.finding import find_job
from gateway.rest.configured import Settings
from gateway.rest.documents.answers import AnswerBody, JobLog, JobStatus
from gateway.rest.documents.training_jobs import Key
from gateway.rest.guards import Reader, Submitter
from gateway.rest.prefect_link import Prefect
from gateway.rest.problems import responses, there_already

router = APIRouter(
    prefix="/api/training", tags=["agent"], responses=responses(400, 401, 403, 404, 409, 429)
)


class ExecuteRequest(JobRequest):
    """What to train, and how a backend is told of it."""

    job_token: str | None = Field(default=None, min_length=8, max_length=4096, pattern=r"^[!-~]+$")
    """By which the backend knows the job: an agent reports with it. It is kept by the agent alone."""


class Executed(AnswerBody):
    """A job that was handed over."""

    job_id: str
    status: str
    """Its state."""
    message: str


class AgentStatus(JobStatus):
    """Where a job stands, as document 004 says it too."""

    status: str = ""
    """The state again."""
    latest_metrics: dict[str, Any] = Field(default_factory=dict)
    """The numbers again."""


@router.post(
    "/execute",
    status_code=201,
    responses=there_already(Executed),
    summary="Create a job and submit it",
)
async def execute(
    prefect: Prefect,
    caller: Submitter,
    settings: Settings,
    request: ExecuteRequest,
    backend: ToBackend,
    answer: Response,
    key: Key = None,
) -> Executed:
    """Create a job and hand it to the workers at once; `provider` is local unless it is given."""
    report = backend.reports_with(request.job_token)
    asked = JobRequest(**request.model_dump(exclude={"job_token"}, exclude_unset=True))
    run, is_new = await start_job(
        prefect,
        caller,
        settings.filled(asked),
        key,
        deployments=settings.deployments,
        first=report,
    )
    if not is_new:
        answer.status_code = 200
    return Executed.model_validate(await showing.handed_over(prefect, run))


@router.get("/status/{job_id}", summary="Where a job stands")
async def status(prefect: Prefect, caller: Reader, job_id: str) -> AgentStatus:
    """Say where a job stands."""
    found = await showing.status_of_job(prefect, await find_job(prefect, caller, job_id))
    return _as_agent(found)


@router.post("/pause/{job_id}", summary="Pause a job")
async def pause(prefect: Prefect, caller: Submitter, job_id: str) -> AgentStatus:
    """Have a job save and pause."""
    run = await pause_job(prefect, caller, job_id)
    return _as_agent(await showing.status_of_job(prefect, run))


@router.post("/resume/{job_id}", summary="Resume a job")
async def resume(prefect: Prefect, caller: Submitter, job_id: str) -> AgentStatus:
    """Have a job go on from its newest checkpoint."""
    run = await resume_job(prefect, caller, job_id)
    return _as_agent(await showing.status_of_job(prefect, run))


@router.post("/cancel/{job_id}", summary="Cancel a job")
async def cancel(prefect: Prefect, caller: Submitter, job_id: str) -> AgentStatus:
    """Have a job save and stop."""
    run = await cancel_job(prefect, caller, job_id)
    return _as_agent(await showing.status_of_job(prefect, run))


@router.get("/logs/{job_id}", summary="The log of a job")
async def logs(
    prefect: Prefect,
    caller: Reader,
    job_id: str,
    after: int = 0,
    limit: Annotated[int, Query(ge=1, le=showing.MOST_LINES)] = 1000,
) -> JobLog:
    """Return lines of a job's log."""
    run = await find_job(prefect, caller, job_id)
    lines, end = await showing.log_of_job(prefect, run, after=after, limit=limit)
    return JobLog(job_id=job_id, logs=lines, next=end)


def _as_agent(status: dict[str, Any]) -> AgentStatus:
    again = {"status": status["state"], "latest_metrics": status["current_metrics"]}
    return AgentStatus.model_validate(status | again)
