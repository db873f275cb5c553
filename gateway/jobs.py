"""Jobs as Prefect knows them: found by id, prefix or name, with their metrics."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterName,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.utilities.urls import url_for

from flows.outcome import PAUSING, job_state
from flows.streaming.board import METRICS
from gateway.view import View, view_of
from trainer.errors import ConfigError
from trainer.job_directory import JobState
from trainer.metrics import Record, by_step, parse_records

FLOW = FlowFilter(name=FlowFilterName(any_=["train"]))
PAGE = 200
SHORT = 8  # characters of an id that are shown
LEAST = 4  # characters of an id that are taken
REPORT = "training-report"
PREFIX = re.compile(rf"[0-9a-fA-F-]{{{LEAST},36}}")


async def find(client: PrefectClient, text: str) -> FlowRun:
    """Return the job of an id, of the beginning of one, or the newest job of a name.

    Raises:
        ConfigError: there is none, or the beginning is that of several.
    """
    try:
        return await client.read_flow_run(UUID(text))
    except ObjectNotFound:
        raise _no_job(text) from None
    except ValueError:
        pass
    named = FlowRunFilter(name=FlowRunFilterName(any_=[text]))
    newest = await client.read_flow_runs(
        flow_filter=FLOW,
        flow_run_filter=named,
        sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        limit=1,
    )
    if newest:
        return newest[0]
    if not PREFIX.fullmatch(text):
        raise _no_job(text)
    found = [run async for run in runs(client) if str(run.id).startswith(text.lower())]
    if len(found) > 1:
        ids = ", ".join(str(run.id) for run in found[:5])
        raise ConfigError(f"{text} is the beginning of {len(found)} jobs: {ids}.", "Give more.")
    if not found:
        raise _no_job(text)
    return found[0]


async def runs(client: PrefectClient) -> AsyncIterator[FlowRun]:
    """Yield all runs of the training flow, newest first."""
    offset = 0
    while True:
        page = await client.read_flow_runs(
            flow_filter=FLOW,
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
            limit=PAGE,
            offset=offset,
        )
        for run in page:
            yield run
        if len(page) < PAGE:
            return
        offset += PAGE


async def newest(
    client: PrefectClient, limit: int, state: JobState | None, provider: str | None
) -> list[FlowRun]:
    """Return the newest jobs, of one state and of one provider where these are given."""
    found: list[FlowRun] = []
    async for run in runs(client):
        if state not in {None, job_state(run)} or provider not in {None, provider_of(run)}:
            continue
        found.append(run)
        if len(found) == limit:
            break
    return found


async def metrics(client: PrefectClient, ids: Iterable[UUID]) -> dict[UUID, dict[int, Record]]:
    """Return the metrics of jobs by step, from their artifacts, in one call per 200 jobs."""
    wanted = list(ids)
    found: dict[UUID, dict[int, Record]] = {}
    for start in range(0, len(wanted), PAGE):
        artifacts = await client.read_artifacts(
            artifact_filter=ArtifactFilter(
                key=ArtifactFilterKey(any_=[METRICS]),
                flow_run_id=ArtifactFilterFlowRunId(any_=wanted[start : start + PAGE]),
            )
        )
        for artifact in artifacts:
            if artifact.flow_run_id:
                found[artifact.flow_run_id] = _steps(artifact.data)
    return found


async def report_of(client: PrefectClient, run: FlowRun) -> str | None:
    """Return the report of a completed job, in Markdown."""
    artifacts = await client.read_artifacts(
        artifact_filter=ArtifactFilter(
            key=ArtifactFilterKey(any_=[REPORT]),
            flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]),
        )
    )
    return str(artifacts[-1].data) if artifacts else None


def provider_of(run: FlowRun) -> str:
    """Return the provider that the job asks for; several in its order, with commas."""
    job = run.parameters.get("job")
    asked = job.get("provider", "local") if isinstance(job, dict) else "local"
    return ",".join(map(str, asked)) if isinstance(asked, list) else str(asked)


def state_shown(run: FlowRun) -> str:
    """Return the job's state in a word; what it is on the way to, where it was asked."""
    if run.state and run.state.name in {PAUSING, "Cancelling"}:
        return "pausing" if run.state.name == PAUSING else "stopping"
    return str(job_state(run))


def message_of(run: FlowRun) -> str:
    """Return why the job is in its state, where Prefect was told; its own phrases tell nothing."""
    message = (run.state.message if run.state else None) or ""
    return "" if message == "All states completed." else message


def view(run: FlowRun, steps: dict[int, Record]) -> View:
    """Return what a person sees of a job."""
    return view_of(str(run.id), run.name, state_shown(run), message_of(run), steps)


def seconds(run: FlowRun) -> float | None:
    """Return how long the job ran, or has run so far."""
    if run.start_time is None:
        return None
    end = run.end_time or datetime.now(UTC)
    return max(0.0, (end - run.start_time).total_seconds())


def record(run: FlowRun, steps: dict[int, Record]) -> dict[str, Any]:
    """Return a job as JSON values."""
    shown = view(run, steps)
    return {
        "id": shown.id,
        "name": shown.name,
        "state": str(job_state(run)),
        "prefect_state": run.state.name if run.state else None,
        "message": shown.message,
        "provider": provider_of(run),
        "step": shown.step,
        "total_steps": shown.total_steps,
        "train_loss": shown.train_loss,
        "eval_loss": shown.eval_loss,
        "eval_loss_first": shown.eval_loss_first,
        "created": run.created.isoformat() if run.created else None,
        "seconds": seconds(run),
        "link": link(run.id),
    }


def link(run_id: UUID) -> str:
    """Return the address of the run's page in Prefect's UI."""
    return url_for("flow-run", obj_id=run_id) or ""


def _steps(data: Any) -> dict[int, Record]:
    """Return the rows of a metrics artifact by step; Prefect gives tables as they were or as text."""
    rows = json.loads(data) if isinstance(data, str) else data
    if not isinstance(rows, list):
        return {}
    records, _ = parse_records(json.dumps(row).encode() for row in rows)
    return by_step(records)


def _no_job(text: str) -> ConfigError:
    return ConfigError(f"There is no job {text!r}.", "'trainctl list' shows all jobs.")
