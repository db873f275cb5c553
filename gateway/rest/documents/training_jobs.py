"""Document 000: jobs are created, submitted to a provider, watched, controlled, and their adapters fetched."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response
from prefect.client.orchestration import PrefectClient
from pydantic import BaseModel, ConfigDict

from gateway.operations import showing
from gateway.operations.controlling import cancel_job, pause_job, resume_job
from gateway.operations.creating import create_job, submit_job
from gateway.operations.finding import find_job, list_jobs
from gateway.prefect.client import JobRun
from gateway.rest.configured import Asked, Settings
from gateway.rest.documents.answers import (
    Artifact,
    JobError,
    JobErrors,
    JobList,
    JobLog,
    JobStatus,
    JobSummary,
)
from gateway.rest.guards import Reader, Submitter
from gateway.rest.prefect_link import Prefect
from gateway.rest.problems import responses, there_already
from trainer.contract.job_directory import JobState

router = APIRouter(
    prefix="/api/training/jobs",
    tags=["jobs"],
    responses=responses(400, 401, 403, 404, 409, 429),
)
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Sent again under its key, a request makes no second job",
    ),
]
MOST = 200


class SubmitRequest(BaseModel):
    """Where a job is to train."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"provider": "runpod"}]}
    )

    provider: str | list[str] | None = None
    """One, several in the order in which they are tried, or null: where the job says itself."""


@router.post("", status_code=201, responses=there_already(JobStatus), summary="Create a job")
async def create(
    prefect: Prefect, caller: Submitter, request: Asked, answer: Response, key: Key = None
) -> JobStatus:
    """Create a job; it trains once it is submitted."""
    run, is_new = await create_job(prefect, caller, request, key)
    if not is_new:
        answer.status_code = 200
    return await _status(prefect, run)


@router.get("", summary="List jobs")
async def listing(
    prefect: Prefect,
    caller: Reader,
    provider: str | None = None,
    state: JobState | None = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
    cursor: Annotated[str | None, Query(max_length=20_000)] = None,
) -> JobList:
    """List jobs, the newest first."""
    page = await list_jobs(
        prefect, caller, state=state, provider=provider, limit=limit, cursor=cursor
    )
    jobs = [JobSummary.model_validate(showing.summary_of(run)) for run in page.runs]
    return JobList(jobs=jobs, total=page.total, cursor=page.cursor)


@router.post("/{job_id}/submit", summary="Submit a job to a provider")
async def submit(
    prefect: Prefect,
    caller: Submitter,
    settings: Settings,
    job_id: str,
    request: SubmitRequest | None = None,
) -> JobStatus:
    """Hand a job to the workers that are to train it; the message says for what it waits."""
    wanted = request.provider if request else None
    run = await submit_job(prefect, caller, job_id, wanted, settings.deployments)
    return await _status(prefect, run)


@router.get("/{job_id}/status", summary="Where a job stands")
async def status(prefect: Prefect, caller: Reader, job_id: str) -> JobStatus:
    """Say where a job stands, with its newest numbers."""
    return await _status(prefect, await find_job(prefect, caller, job_id))


@router.post("/{job_id}/cancel", summary="Cancel a job")
async def cancel(prefect: Prefect, caller: Submitter, job_id: str) -> JobStatus:
    """Have a job save and stop; answered when it has, or after 20 seconds."""
    return await _told(prefect, await cancel_job(prefect, caller, job_id), "cancelled", "stopping")


@router.post("/{job_id}/pause", summary="Pause a job")
async def pause(prefect: Prefect, caller: Submitter, job_id: str) -> JobStatus:
    """Have a job save and pause; answered when it has, or after 20 seconds."""
    return await _told(prefect, await pause_job(prefect, caller, job_id), "paused", "pausing")


@router.post("/{job_id}/resume", summary="Resume a job")
async def resume(prefect: Prefect, caller: Submitter, job_id: str) -> JobStatus:
    """Have a job that paused, stopped or failed go on where it stood."""
    return await _status(prefect, await resume_job(prefect, caller, job_id))


@router.post("/{job_id}/download-artifact", summary="The verified artifact of a job")
async def download_artifact(prefect: Prefect, caller: Reader, job_id: str) -> Artifact:
    """Say where the artifact of a completed job is; its bytes are verified once more."""
    run = await find_job(prefect, caller, job_id)
    return Artifact.model_validate(await showing.artifact_of_job(run))


@router.get("/{job_id}/logs", summary="The log of a job")
async def logs(
    prefect: Prefect,
    caller: Reader,
    job_id: str,
    after: Annotated[int, Query(description="Lines to pass over; -100: the last 100")] = 0,
    limit: Annotated[int, Query(ge=1, le=showing.MOST_LINES)] = 1000,
) -> JobLog:
    """Return lines of a job's log."""
    run = await find_job(prefect, caller, job_id)
    lines, end = await showing.log_of_job(prefect, run, after=after, limit=limit)
    return JobLog(job_id=job_id, logs=lines, next=end)


@router.get("/{job_id}/errors", summary="What went wrong with a job")
async def errors(prefect: Prefect, caller: Reader, job_id: str) -> JobErrors:
    """Return what went wrong, each with what to do about it."""
    run = await find_job(prefect, caller, job_id)
    return JobErrors(
        job_id=job_id,
        errors=[
            JobError(error=one["class"], message=one["message"], suggestion=one.get("suggestion"))
            for one in showing.errors_of_job(run)
        ],
    )


async def _status(client: PrefectClient, run: JobRun) -> JobStatus:
    return JobStatus.model_validate(await showing.status_of_job(client, run))


async def _told(client: PrefectClient, run: JobRun, done: str, on_its_way: str) -> JobStatus:
    """Return the status, with the words of document 000 where there is no message of ours."""
    status = await _status(client, run)
    is_done = JobState(status.state).at_rest
    said: Any = status.message if is_done else None
    words = (
        f"Job {done} successfully" if is_done else f"The job is {on_its_way}; ask for its status."
    )
    return status.model_copy(update={"message": f"{words}: {said}" if said else words})
