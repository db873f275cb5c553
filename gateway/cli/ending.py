"""Say how a job ended: why, how good the result is, and where the artifact is."""

from __future__ import annotations

from typing import Any

from flows.run_folder import RunFolder
from flows.shown import ShownRun, job_state, short_id
from gateway import jobs
from gateway.exits import complain, say
from gateway.view import duration, number, printable
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobState


def tell_end(run: ShownRun, folder: RunFolder) -> None:
    """Write the job's end; for a completed one the last two lines name file and SHA-256."""
    message = printable(jobs.message_of(run)).strip()
    short = short_id(run.id)
    match job_state(run):
        case JobState.COMPLETED:
            say(f"completed in {duration(jobs.seconds(run))}")
            tell_report(read_json(folder.report) or {})
        case JobState.PAUSED | JobState.STOPPED as state:
            say(rest_line(state, message))
            say(f"resume it:  trainctl resume {short}")
        case JobState.FAILED:
            complain(message or f"Job {short} failed without giving a reason.")
        # Not at rest: a job that was asked to stop and has not done so yet.
        case JobState.CREATED | JobState.INITIALIZING | JobState.RUNNING as state:
            say(f"{state}: {message}".rstrip(": "))


def rest_line(state: JobState, message: str) -> str:
    """Return `stopped: cancelled; saved at step 7 of 9`; a message may begin with the state."""
    return message if message.startswith(state) else f"{state}: {message or 'as asked'}"


def tell_report(report: dict[str, Any]) -> None:
    """Write a report's metrics, and last of all the weights' file and its SHA-256."""
    metrics = report.get("metrics") or {}
    for name in ("eval_loss", "train_loss"):
        if name in metrics:
            first = metrics.get(f"{name}_first")
            before = f"{number(first)} → " if first is not None else ""
            say(f"{name} {before}{number(metrics[name])}")
    if report.get("warning"):
        complain(f"warning: {report['warning']}")
    if report.get("file"):
        # Last, in this order and form: scripts read these two lines.
        say(f"artifact {report['file']}")
        say(f"sha256 {report['sha256']}")
