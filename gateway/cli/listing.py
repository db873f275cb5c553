"""Print many jobs as a table, or one job in full."""

from __future__ import annotations

import sys
from typing import Any

from flows.scheduling.labels import BATCH, text
from flows.shown import short_id, without_pictures
from gateway import jobs
from gateway.cli.table import print_table
from gateway.exits import say, say_json
from gateway.prefect.client import JobRun, connected
from gateway.view import NOTHING, age, duration, losses, number, printable, sparkline, speed
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.contract.metrics import Record

COLUMNS = ("ID", "NAME", "STATE", "PROVIDER", "STEP", "LOSS", "EVAL", "AGE", "TOOK")


STATES_OF_OTHERS = {
    "pending": JobState.CREATED,
    "queued": JobState.CREATED,
    "cancelled": JobState.STOPPED,
}
"""What others call states of ours."""


def state_named(name: str | None) -> JobState | None:
    """Return the state of a name, ours or that of others, in any case.

    Raises:
        ConfigError: there is no such state.
    """
    if name is None:
        return None
    known = {str(state): state for state in JobState} | STATES_OF_OTHERS
    found = known.get(name.strip().lower())
    if found is None:
        raise ConfigError(
            f"--state = {name!r}: is not a state; there are: {', '.join(known)}.", "Choose one."
        )
    return found


def list_jobs(state: JobState | None, provider: str | None, limit: int, *, as_json: bool) -> None:
    """Print the newest jobs."""
    client = connected()
    runs = jobs.newest(client, limit, state, provider)
    steps = jobs.metrics(client, [run.id for run in runs])
    found = [(run, steps.get(run.id, {})) for run in runs]
    if as_json:
        say_json([jobs.record(run, steps) for run, steps in found])
    elif not found:
        say("no jobs")
    else:
        rows = [row(run, steps) for run, steps in found]
        # If all jobs ran at one provider, that column says the least and goes first.
        one_place = len({cells[COLUMNS.index("PROVIDER")] for cells in rows}) == 1
        least = ("PROVIDER", "TOOK", "EVAL") if one_place else ("TOOK", "EVAL", "PROVIDER")
        print_table(COLUMNS, rows, named=COLUMNS.index("NAME"), least=least)


def row(run: JobRun, steps: dict[int, Record]) -> tuple[str, ...]:
    """Return a job as the cells of the table."""
    view = jobs.view(run, steps)
    return (
        short_id(view.id),
        printable(view.name),
        view.state,
        printable(jobs.provider_of(run)),
        f"{view.step}/{view.total_steps}" if view.total_steps else NOTHING,
        number(view.train_loss),
        number(view.eval_loss),
        age(run.created),
        duration(jobs.seconds(run)),
    )


def show_job(text: str, *, as_json: bool) -> None:
    """Print everything about one job."""
    client = connected()
    run = jobs.find(client, text)
    steps = jobs.metrics(client, [run.id]).get(run.id, {})
    report = jobs.report_of(client, run)
    waiting = client.waiting(run)
    report = report and without_pictures(report)
    if as_json:
        record = jobs.record(run, steps) | {"waiting": waiting}
        say_json({**record, "metrics": _last(steps), "report": report, "job": _asked(run)})
        return
    for name, value in facts(run, steps, waiting).items():
        say(f"{name:<10} {value}")
    if report and sys.stdout.isatty():
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(report))
    elif report:
        say(f"\n{report}")


def facts(
    run: JobRun, steps: dict[int, Record], waiting: dict[str, Any] | None = None
) -> dict[str, str]:
    """Return what there is to say about a job, by name, without what is not known."""
    view = jobs.view(run, steps)
    asked = _asked(run).get("training") or {}
    done = f"{view.step}/{view.total_steps} ({view.share:.0%})" if view.total_steps else ""
    found = {
        "id": view.id,
        "name": view.name,
        "state": view.state,
        "message": view.message,
        "waiting": waiting["text"] if waiting else "",
        "batch": text(run.labels, BATCH),
        "provider": jobs.provider_of(run),
        "method": asked.get("method"),
        "model": asked.get("model"),
        "dataset": _dataset(asked.get("dataset")),
        "step": done,
        "epoch": number(view.epoch) if view.epoch is not None else "",
        "losses": f"{losses(view)}  {sparkline(view.losses)}" if view.losses else "",
        "rate": number(view.learning_rate) if view.learning_rate is not None else "",
        "speed": speed(view),
        "created": f"{run.created:%Y-%m-%d %H:%M:%S %Z}" if run.created else "",
        "took": duration(jobs.seconds(run)),
        "link": jobs.link(run.id),
    }
    return {name: printable(str(value)) for name, value in found.items() if value}


def _dataset(asked: Any) -> Any:
    """Return what a job says of its data, in short: a path, or several."""
    if isinstance(asked, dict):
        asked = asked.get("sources") or asked.get("path")
    if isinstance(asked, list):
        return ", ".join(str(_dataset(each)) for each in asked)
    return asked


def _asked(run: JobRun) -> dict[str, Any]:
    job = run.parameters.get("job")
    return job if isinstance(job, dict) else {}


def _last(steps: dict[int, Record]) -> Record:
    """Return the newest value of every metric."""
    last: Record = {}
    for record in steps.values():
        # Evaluation and training write different fields, so the last record alone is not all.
        last |= {name: value for name, value in record.items() if value is not None}
    return last
