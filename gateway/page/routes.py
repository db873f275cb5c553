"""The addresses of the page."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from flows.scheduling.seen import SeenRun
from gateway import jobs
from gateway.batches.finding import held
from gateway.cli.listing import facts
from gateway.metrics.holding import Metrics
from gateway.page import looking, results
from gateway.page.rendering import FILES, PageRoute, html
from gateway.prefect.client import LightClient, connected
from gateway.queue_view import NO_WORKER, queue_view, record
from gateway.rest.guards import Reader
from gateway.rest.problems import RequestRefused
from gateway.spending import costs, forecasts, quotas

router = APIRouter(route_class=PageRoute, include_in_schema=False)
Short = Annotated[str, Query(max_length=200)]
Ids = Annotated[list[UUID], Query(max_length=looking.MOST_COMPARED)]
POINTS = 1000  # of a curve: about as many as a wide screen has columns
CHARTS = {
    "Loss": ("train_loss", "eval_loss"),
    "Reward": ("reward", "eval_reward"),
    "Learning rate": ("learning_rate",),
    "Gradient norm": ("grad_norm",),
    "Speed, tokens/s": ("tokens_per_second",),
    "GPU use, %": ("gpu_utilization_percent",),
    "Memory, GB": ("gpu_memory_reserved_gb", "ram_gb"),
    "CPU use, %": ("cpu_percent",),
}
"""What is drawn of a job, in this order: a title with its unit, and metrics."""


@router.get("/")
def start(caller: Reader) -> Response:
    """Lead to the jobs."""
    del caller
    return RedirectResponse("/jobs", 303)


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Serve a file of the page."""
    if name not in FILES:
        raise RequestRefused(404, f"The page has no file {name!r}.")
    content, kind = FILES[name]
    return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})


@router.get("/sign-in")
def sign_in(request: Request, next: Short = "/", failed: Short = "") -> Response:
    """Show the form by which a person signs in."""
    elsewhere = bool(request.app.state.gate.settings.oidc_issuer)
    values = {"next": next, "failed": failed, "elsewhere": elsewhere}
    return html(request, "sign_in.html", title="Sign in", values=values)


@router.get("/jobs/{job_id}")
def job(request: Request, caller: Reader, job_id: UUID) -> Response:
    """Show all of one job."""
    client = connected()
    run = looking.find(client, caller, str(job_id))
    steps = jobs.metrics(client, [run.id]).get(run.id, {})
    view = jobs.view(run, steps)
    return html(
        request,
        "job.html",
        title=view.name,
        view=view,
        facts=facts(run, steps, client.waiting(run)),
        states=looking.states(client, run),
        config=looking.as_yaml(run.parameters.get("job")),
        report=jobs.report_of(client, run) or "",
        machines=results.machines(run),
        checkpoints=results.checkpoints(run),
        artifact=results.artifact(run),
        can_resume=looking.can_resume(run),
        link=jobs.link(run.id),
        over=looking.is_at_rest(run),
    )


@router.get("/jobs/{job_id}/log")
def log(request: Request, caller: Reader, job_id: UUID, text: Short = "") -> Response:
    """Show the end of a job's log, or the last lines that contain a text."""
    client = connected()
    run = looking.find(client, caller, str(job_id))
    return html(request, "log.html", lines=looking.log_lines(client, run, text))


@router.get("/jobs/{job_id}/rows")
def rows(
    request: Request,
    caller: Reader,
    job_id: UUID,
    first: Annotated[int, Query(ge=1, le=10**9)] = 1,
) -> Response:
    """Show rows of a job's data as the model sees them."""
    run = looking.find(connected(), caller, str(job_id))
    found = results.rows_as_seen(run, first)
    return html(request, "data_rows.html", rows=found, first=first, id=job_id)


@router.get("/jobs/{job_id}/artifact/{name:path}")
def artifact_file(caller: Reader, job_id: UUID, name: str) -> Response:
    """Send a file of a job's artifact."""
    path = results.artifact_file(looking.find(connected(), caller, str(job_id)), name)
    return FileResponse(path, filename=path.name, media_type="application/octet-stream")


@router.get("/compare")
def compare(request: Request, caller: Reader, job: Ids, x: Short = "step") -> Response:
    """Show the curves of several jobs together, and in what they differ."""
    client = connected()
    runs = [looking.find(client, caller, str(each)) for each in dict.fromkeys(job)]
    asked = {str(run.id): run.parameters.get("job") or {} for run in runs}
    rows = looking.differences(asked)
    return html(request, "compare.html", title="Compare", runs=runs, rows=rows, x=x)


@router.get("/curves")
async def curves(caller: Reader, metrics: Metrics, job: Ids, x: Short = "step") -> Response:
    """Return the curves of jobs as JSON, chart by chart; what is no number is null."""
    ids = [str(each) for each in dict.fromkeys(job)]
    runs = await asyncio.to_thread(_all, connected(), caller, ids)
    keys = [(id, name) for names in CHARTS.values() for name in names for id in ids]
    found = {(one.job, one.metric): one for one in await metrics.curves(keys, x=x, points=POINTS)}
    charts = [
        {
            "title": title,
            "curves": [
                {
                    "job": id,
                    "name": runs[id],
                    "metric": name,
                    "x": _numbers(found[id, name].x),
                    "y": _numbers(found[id, name].values[-1]),
                }
                for name in names
                for id in ids
                if (id, name) in found
            ],
        }
        for title, names in CHARTS.items()
    ]
    return JSONResponse([chart for chart in charts if chart["curves"]])


def _all(client: LightClient, caller: Any, ids: Iterable[str]) -> dict[str, str]:
    return {id: looking.find(client, caller, id).name for id in ids}


def _numbers(values: Any) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in map(float, values)]


@router.get("/queue")
def queue(request: Request, caller: Reader, pool: Short = "") -> Response:
    """Show the GPUs of a pool, who has them, and why the others wait."""
    client = connected()
    pools = [one["name"] for one in looking.ask(client, "/work_pools/filter", {})]
    chosen = pool or (pools[0] if pools else "")

    async def its_held(waiting: Iterable[SeenRun]) -> dict[str, str]:
        return held(client, waiting)

    view = record(asyncio.run(queue_view(client.asking(), chosen, its_held))) if chosen else None
    if view and caller.project is not None:
        for part in ("running", "waiting"):
            view[part] = [one for one in view[part] if one["project"] == caller.project]
    by_gpu: dict[str, list[Any]] = {}
    for one in view["running"] if view else []:
        for uuid in one["gpus"]:
            by_gpu.setdefault(uuid, []).append(one)
    return html(
        request,
        "queue.html",
        title="Queue",
        held=by_gpu,
        pools=pools,
        pool=chosen,
        view=view,
        no_worker=NO_WORKER,
    )


@router.get("/money")
def money(
    request: Request, caller: Reader, by: Literal["job", "provider", "project", "day"] = "job"
) -> Response:
    """Show what rented machines cost, and will."""
    if caller.project is not None:
        raise RequestRefused(403, "What all projects cost is shown to those who see all projects.")
    found = costs(connected, by)
    running = forecasts(connected())
    return html(
        request,
        "money.html",
        title="Money",
        rows=found if by == "day" else sorted(found, key=lambda row: -row["usd"]),
        by=by,
        ways=("job", "provider", "project", "day"),
        total=sum(row["usd"] for row in found),
        most=max((row["usd"] for row in found), default=0.0),
        running=running,
        quotas=quotas(connected(), running),
    )
