"""What is told of a job: its state, numbers, log, errors and artifact."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from prefect.client.orchestration import PrefectClient

from blocks.home import runs
from flows.asking import asking
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.shown import LOGGER, METRICS, job_state
from gateway.jobs import link, message_of, provider_of, steps_of
from gateway.operations.finding import is_draft, job_id_of
from gateway.operations.newest_values import newest_values
from gateway.prefect.client import PAGE, JobRun
from gateway.prefect.waiting import waiting_for
from gateway.view import printable
from trainer.contract.errors import ConfigError
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify
from trainer.contract.metrics import Record, by_step, parse_records

LOG = "train.log"
MOST_LINES = 5000
OLD_NAMES = {"train_loss": "loss"}
"""The founding documents' names of metrics, beside ours."""


async def status_of_job(client: PrefectClient, run: JobRun) -> dict[str, Any]:
    """Return where a job stands, with its newest numbers, as document 000 has it."""
    newest = await _newest_of_job(client, run)
    for ours, theirs in OLD_NAMES.items():
        if ours in newest:
            newest.setdefault(theirs, newest[ours])
    artifact = None
    if job_state(run) is JobState.COMPLETED:
        artifact = await asyncio.to_thread(_artifact, run)
    return summary_of(run) | {
        "provider_job_id": await asyncio.to_thread(_machine_of, run),
        "current_metrics": newest,
        "artifact_info": artifact,
        "message": await reason_of(client, run),
        "link": link(run.id),
    }


async def _newest_of_job(client: PrefectClient, run: JobRun) -> Record:
    """Return the newest value of each metric of a job."""
    if found := await asyncio.to_thread(newest_values, runs() / str(run.id) / "metrics.jsonl"):
        return found
    newest: Record = {}
    for record in (await steps_of_job(client, run)).values():
        newest |= {name: value for name, value in record.items() if value is not None}
    return newest


async def handed_over(client: PrefectClient, run: JobRun) -> dict[str, Any]:
    """Return what is told of a job that was handed to the workers at once."""
    why = await reason_of(client, run)
    return {
        "job_id": job_id_of(run),
        "status": str(job_state(run)),
        "message": f"Job submitted: it {why}" if why and _waits(run) else "Job submitted",
    }


async def reason_of(client: PrefectClient, run: JobRun) -> str | None:
    """Return why a job is in its state: of one that waits, for what; None: there is no more to say."""
    if not _waits(run):
        return message_of(run) or None
    waiting = await waiting_for(asking(client), run.value)
    return waiting["text"] if waiting else message_of(run) or None


def _waits(run: JobRun) -> bool:
    return job_state(run) is JobState.CREATED and not is_draft(run)


def summary_of(run: JobRun) -> dict[str, Any]:
    """Return what a list tells of a job."""
    return {
        "job_id": job_id_of(run),
        "name": run.name,
        "state": str(job_state(run)),
        "provider": provider_of(run),
        "created_at": _moment(run.created),
        "started_at": _moment(run.start_time),
        "completed_at": _moment(run.end_time) if job_state(run).at_rest else None,
    }


async def steps_of_job(client: PrefectClient, run: JobRun) -> dict[int, Record]:
    """Return a job's metrics by step: from its file here, else from its artifact in Prefect."""
    file = runs() / str(run.id) / "metrics.jsonl"
    if found := await asyncio.to_thread(_records_in, file):
        return found
    artifacts = {"key": {"any_": [METRICS]}, "flow_run_id": {"any_": [str(run.id)]}}
    body = {"artifacts": artifacts, "sort": "CREATED_DESC", "limit": 1}
    kept = await asking(client)("/artifacts/filter", body)
    return steps_of(kept[0]["data"]) if kept else {}


async def log_of_job(
    client: PrefectClient, run: JobRun, *, after: int, limit: int
) -> tuple[list[str], int]:
    """Return lines of a job's log, and after how many lines the next ones come.

    Args:
        client: of Prefect.
        run: the job's.
        after: how many lines to pass over; negative: the last so many lines.
        limit: how many at most.
    """
    file = runs() / str(run.id) / LOG
    some = await asyncio.to_thread(_lines_in, file, after, limit)
    return some if some is not None else _part(await _told_lines(client, run), after, limit)


def errors_of_job(run: JobRun) -> list[dict[str, Any]]:
    """Return what went wrong: each with its class, a message, and what to do about it."""
    if job_state(run) is not JobState.FAILED:
        return []
    kind = "Crashed" if run.state and run.state.type == "CRASHED" else "TrainingFailed"
    message = message_of(run) or "It failed without giving a reason."
    return [{"class": kind, "message": message, "suggestion": f"trainctl resume {run.id}"}]


async def artifact_of_job(run: JobRun) -> dict[str, Any]:
    """Return the artifact of a completed job, verified against its manifest once more.

    Raises:
        ConfigError: it has none, or none here.
        IntegrityError: a file is not what the manifest says.
    """
    found = await asyncio.to_thread(_artifact, run)
    if found is None:
        state = job_state(run)
        where = "on the computer of its worker" if state is JobState.COMPLETED else "not there yet"
        raise NoArtifact(
            f"The artifact of job {job_id_of(run)!r} is {where}: it is {state}.",
            "Ask again when it is completed, there.",
        )
    await asyncio.to_thread(verify, Path(found["path"]).parent)
    return found


class NoArtifact(ConfigError):
    """A job has no artifact, or none on this computer."""


def _artifact(run: JobRun) -> dict[str, Any] | None:
    report = read_json(runs() / str(run.id) / "report.json")
    if not report or not report.get("file"):
        return None
    file = Path(report["file"])
    job = run.parameters.get("job") or {}
    training = job.get("training") or {}
    job_id = job_id_of(run)
    return {
        "artifact_id": f"{job_id}_artifact",
        "job_id": job_id,
        "path": str(file),
        "size_bytes": file.stat().st_size if file.exists() else None,
        "hash_sha256": report.get("sha256"),
        "created_at": _moment(run.end_time),
        "metadata": {
            "provider": provider_of(run),
            "provider_job_id": _machine_of(run),
            "model_name": training.get("model"),
            "peft_method": (training.get("peft") or {}).get("peft_type", "lora").lower()
            if training.get("peft")
            else None,
        },
    }


def _machine_of(run: JobRun) -> str | None:
    """Return the id that the provider gave the job's newest machine."""
    if not (runs() / str(run.id)).is_dir():
        return None
    hires = Journal.of(RunFolder(run.id)).hires
    return hires[-1].instance_id if hires else None


def _records_in(file: Path) -> dict[int, Record]:
    try:
        with file.open("rb") as stream:
            records, _ = parse_records(stream)
    except FileNotFoundError:
        return {}
    return by_step(records)


def _lines_in(file: Path, after: int, limit: int) -> tuple[list[str], int] | None:
    """Return lines of a log as `log_of_job` does, one by one: it may be larger than memory."""
    try:
        with file.open(encoding="utf-8", errors="replace", newline="\n") as stream:
            return _part(stream, after, limit)
    except FileNotFoundError:
        return None


def _part(lines: Iterable[str], after: int, limit: int) -> tuple[list[str], int]:
    """Return some of the lines, and after how many lines the next ones come."""
    if after >= 0:
        some = [_plain(line) for line in islice(lines, after, after + limit)]
        return some, after + len(some)
    count = 0
    last: deque[str] = deque(maxlen=min(-after, MOST_LINES))
    for count, line in enumerate(lines, 1):  # noqa: B007 - how many there were is asked for below
        last.append(line)
    start = count - len(last)
    some = [_plain(line) for line in last][:limit]
    return some, start + len(some)


def _plain(line: str) -> str:
    # A progress bar redraws its line with carriage returns: the last drawing is what was seen.
    return printable(line.rstrip("\r\n").rpartition("\r")[2])


async def _told_lines(client: PrefectClient, run: JobRun) -> list[str]:
    """Return the lines that Prefect has, of a job that trained elsewhere: its log, else all."""
    of_log: list[str] = []
    of_all: list[str] = []
    offset = 0
    while True:
        body = {
            "logs": {"flow_run_id": {"any_": [str(run.id)]}},
            "sort": "TIMESTAMP_ASC",
            "limit": PAGE,
            "offset": offset,
        }
        page = await asking(client)("/logs/filter", body)
        offset += len(page)
        for one in page:
            lines = one["message"].splitlines()
            of_all += lines
            of_log += lines if one["name"] == LOGGER else []
        if len(page) < PAGE:
            return of_log or of_all


def _moment(at: datetime | None) -> str | None:
    return at.isoformat().replace("+00:00", "Z") if at else None
