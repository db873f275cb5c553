"""Jobs as Prefect knows them: found by id, part of an id, or name; with their metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows.next_deployment import refuse_missing
from flows.shown import (
    FLOW,
    LEAST,
    METRICS,
    PART,
    PAUSING,
    REPORT,
    TRAINS,
    ShownRun,
    is_part,
    job_state,
    short_id,
)
from gateway.prefect.client import PAGE, JobRun, LightClient
from gateway.prefect.settings import PrefectSettings
from gateway.view import JobView, view_of
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.contract.metrics import Record, by_step, parse_records

if TYPE_CHECKING:
    from trainer.config import TrainingJob

PHRASES = {
    *("All states completed.", "Flow run scheduled", "Flow run was cancelled successfully."),
    TRAINS,
}
"""Messages, of Prefect's own and one of ours, which say nothing that the state does not."""


def find(client: LightClient, text: str) -> JobRun:
    """Return the job of an id, of the beginning or the end of one, or the newest job of a name.

    Raises:
        ConfigError: there is no such job, or the part fits several.
    """
    if not text or not text.isprintable():
        raise _no_job(text)
    try:
        whole = UUID(text)
    except ValueError:
        # The name first: "beef" may be a name as well as a part of an id, and a name was chosen by
        # the user.
        return _by_name(client, text) or _by_part(client, text)
    return client.read_flow_run(whole)


def _by_name(client: LightClient, text: str) -> JobRun | None:
    newest = client.flow_runs(FLOW, limit=1, name={"any_": [text]})
    return newest[0] if newest else None


def _by_part(client: LightClient, text: str) -> JobRun:
    if not PART.fullmatch(text):
        raise _no_job(text)
    if len(text) < LEAST:
        raise ConfigError(
            f"There is no job named {text!r}, and an id needs at least {LEAST} characters.",
            "'trainctl list' shows all jobs.",
        )
    # Prefect cannot filter by a part of an id, so all runs are looked through.
    found = [run for run in runs(client) if is_part(run.id, text)]
    if len(found) > 1:
        ids = ", ".join(str(run.id) for run in found[:5])
        more = ", …" if len(found) > 5 else ""
        raise ConfigError(
            f"{text!r} begins or ends the ids of {len(found)} jobs: {ids}{more}.",
            f"Give more of it, or the end, such as {short_id(found[0].id)}.",
        )
    if not found:
        raise _no_job(text)
    return found[0]


def runs(client: LightClient) -> Iterator[JobRun]:
    """Yield all runs of the training flow, newest first."""
    offset = 0
    while True:
        page = client.flow_runs(FLOW, limit=PAGE, offset=offset)
        yield from page
        if len(page) < PAGE:
            return
        offset += PAGE


def newest(
    client: LightClient, limit: int, state: JobState | None, provider: str | None
) -> list[JobRun]:
    """Return the newest jobs, of one state and of one provider where these are given."""
    # One page will do. The filters below are ours: Prefect knows neither a job's state nor its
    # provider.
    if state is None and provider is None and limit < PAGE:
        return client.flow_runs(FLOW, limit=limit)
    found: list[JobRun] = []
    for run in runs(client):
        if state not in {None, job_state(run)} or provider not in {None, provider_of(run)}:
            continue
        found.append(run)
        if len(found) == limit:
            break
    return found


def metrics(client: LightClient, ids: Iterable[UUID]) -> dict[UUID, dict[int, Record]]:
    """Return the metrics of jobs by step, from their artifacts, in one call per 200 jobs."""
    wanted = list(ids)
    found: dict[UUID, dict[int, Record]] = {}
    for start in range(0, len(wanted), PAGE):
        for artifact in client.artifacts(METRICS, wanted[start : start + PAGE]):
            # Artifacts come newest first, so the first of a run is the one that counts.
            found.setdefault(UUID(artifact["flow_run_id"]), steps_of(artifact["data"]))
    return found


def report_of(client: LightClient, run: JobRun) -> str | None:
    """Return the report of a completed job, in Markdown."""
    artifacts = client.artifacts(REPORT, [run.id])
    return str(artifacts[0]["data"]) if artifacts else None


def job_of(run: ShownRun) -> TrainingJob:
    """Return what a run was asked to train.

    Raises:
        ConfigError: it is from another version, or was started without a check.
    """
    from trainer.config import TrainingJob  # it costs CPU time that most commands need not spend
    from trainer.config.explain import validated

    return validated(TrainingJob, run.parameters.get("job"), f"job {short_id(run.id)}")


def check_next(client: LightClient, job: TrainingJob) -> None:
    """Refuse a job whose `on_completion` names what Prefect does not have.

    Raises:
        ConfigError: naming the field and the remedy.
    """
    if wanted := job.on_completion:
        refuse_missing(wanted, client.deployment_facts(wanted.deployment))


def provider_of(run: ShownRun) -> str:
    """Return the provider that the job asks for; several in its order, with commas."""
    job = run.parameters.get("job")
    asked = job.get("provider", "local") if isinstance(job, dict) else "local"
    return ",".join(map(str, asked)) if isinstance(asked, list) else str(asked)


def state_shown(run: ShownRun) -> str:
    """Return the job's state in a word, or what it was asked to do and is on its way to."""
    if run.state and run.state.name in {PAUSING, "Cancelling"}:
        return "pausing" if run.state.name == PAUSING else "stopping"
    return str(job_state(run))


def message_of(run: ShownRun) -> str:
    """Return why the job is in its state; empty where Prefect has only a phrase of its own."""
    message = (run.state.message if run.state else None) or ""
    return "" if message in PHRASES else message


def view(run: ShownRun, steps: dict[int, Record]) -> JobView:
    """Return what a person sees of a job."""
    return view_of(str(run.id), run.name, state_shown(run), message_of(run), steps)


def seconds(run: ShownRun) -> float | None:
    """Return the seconds for which the job has been at work, without pauses, stops and waits."""
    return None if run.start_time is None else run.estimated_run_time.total_seconds()


def record(run: JobRun, steps: dict[int, Record]) -> dict[str, Any]:
    """Return a job as JSON values."""
    shown = view(run, steps)
    return {
        "id": shown.id,
        "name": shown.name,
        "state": str(job_state(run)),
        "prefect_state": run.state.name if run.state else None,
        "message": shown.message,
        "provider": provider_of(run),
        "pool": run.work_pool_name,
        "queue": run.work_queue_name,
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
    return PrefectSettings().page_of_run(run_id)


def steps_of(data: Any) -> dict[int, Record]:
    """Return a metrics artifact's rows by step; Prefect returns tables as values or as text."""
    rows = json.loads(data) if isinstance(data, str) else data
    if not isinstance(rows, list):
        return {}
    records, _ = parse_records(json.dumps(row).encode() for row in rows)
    return by_step(records)


def _no_job(text: str) -> ConfigError:
    return ConfigError(f"There is no job {text!r}.", "'trainctl list' shows all jobs.")
