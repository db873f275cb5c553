"""The addresses of the table of jobs, and of what is done to jobs."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal
from urllib.parse import parse_qs
from uuid import UUID

from fastapi import APIRouter, Query, Request
from prefect.client.orchestration import PrefectClient
from starlette.responses import RedirectResponse, Response

from gateway.access.callers import Caller
from gateway.control import ask_cancel, ask_pause
from gateway.exits import sentence
from gateway.operations.controlling import resume_job
from gateway.page import looking, table
from gateway.page.rendering import PageRoute, html
from gateway.prefect.client import connected
from gateway.rest.guards import Reader, Submitter
from gateway.rest.prefect_link import Prefect
from gateway.rest.problems import RequestRefused
from trainer.contract.errors import OrchestratorError
from trainer.contract.job_directory import JobState

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Short = Annotated[str, Query(max_length=200)]
MOST_AT_ONCE = 200


@router.get("/jobs")
def jobs(
    request: Request,
    caller: Reader,
    state: Short = "",
    provider: Short = "",
    project: Short = "",
    user: Short = "",
    tag: Short = "",
    text: Short = "",
    sort: Short = table.NEWEST,
    page: Annotated[int, Query(ge=1, le=100_000)] = 1,
) -> Response:
    """Show the jobs; alone its rows where the table asks for itself again."""
    wanted = table.JobFilter(
        state=state, provider=provider, project=project, user=user, tag=tag, text=text
    )
    rows, more = table.table(connected(), caller, wanted, page, sort)
    part = "rows.html" if request.headers.get("hx-request") else "jobs.html"
    return html(
        request,
        part,
        title="Jobs",
        rows=rows,
        wanted=wanted,
        page=page,
        more=more,
        sort=sort,
        columns=table.COLUMNS,
        most_sorted=table.MOST_SORTED,
        states=list(JobState),
    )


@router.post("/jobs/selected/{verb}")
async def act_on_several(
    request: Request,
    caller: Submitter,
    prefect: Prefect,
    verb: Literal["cancel", "tag", "untag"],
) -> Response:
    """Cancel or tag the jobs that are selected, and say which could not be."""
    form = parse_qs((await request.body()).decode("utf-8", "replace"))
    ids = [_uuid(text) for text in dict.fromkeys(form.get("job", []))]
    if not 0 < len(ids) <= MOST_AT_ONCE:
        raise RequestRefused(400, f"{len(ids)} jobs are selected. Select 1 to {MOST_AT_ONCE}.")
    tag = table.checked_tag(form.get("tag", [""])[0]) if verb != "cancel" else ""
    problems = []
    for id in ids:
        try:
            await asyncio.to_thread(looking.find, connected(), caller, str(id))
            if verb == "cancel":
                await ask_cancel(prefect, await prefect.read_flow_run(id))
            else:
                await table.set_tag(prefect, id, tag, on=verb == "tag")
        except OrchestratorError as error:
            problems.append(sentence(error))
    back = f"/jobs?{request.url.query}"
    if not problems:
        return RedirectResponse(back, 303)
    done = len(ids) - len(problems)
    return html(request, "selected.html", title="Selected", done=done, problems=problems, back=back)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise RequestRefused(400, f"job = {text[:60]!r}: is not the id of a job.") from None


@router.post("/jobs/{job_id}/{verb}")
async def act(
    caller: Submitter,
    prefect: Prefect,
    job_id: UUID,
    verb: Literal["cancel", "pause", "resume"],
) -> Response:
    """Cancel, pause or resume a job."""
    await asyncio.to_thread(looking.find, connected(), caller, str(job_id))
    await _done(prefect, caller, job_id, verb)
    return RedirectResponse(f"/jobs/{job_id}", 303)


async def _done(prefect: PrefectClient, caller: Caller, job_id: UUID, verb: str) -> None:
    if verb == "resume":
        await resume_job(prefect, caller, str(job_id))
    else:
        run = await prefect.read_flow_run(job_id)
        await (ask_cancel if verb == "cancel" else ask_pause)(prefect, run)
