"""Print many jobs as a table, or one job in full."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from flows.reporting.report import without_pictures
from gateway import jobs
from gateway.api import call
from gateway.exits import say, say_json
from gateway.live import COLOURS
from gateway.view import NOTHING, duration, losses, number, printable, sparkline, speed
from trainer.job_directory import JobState
from trainer.metrics import Record

COLUMNS = ("ID", "NAME", "STATE", "PROVIDER", "STEP", "LOSS", "EVAL", "CREATED", "TOOK")


def list_jobs(state: JobState | None, provider: str | None, limit: int, *, as_json: bool) -> None:
    """Print the newest jobs."""

    async def work(client: PrefectClient) -> list[tuple[FlowRun, dict[int, Record]]]:
        found = await jobs.newest(client, limit, state, provider)
        steps = await jobs.metrics(client, [run.id for run in found])
        return [(run, steps.get(run.id, {})) for run in found]

    found = call(work)
    if as_json:
        say_json([jobs.record(run, steps) for run, steps in found])
    elif not found:
        say("no jobs")
    else:
        print_table([row(run, steps) for run, steps in found])


def row(run: FlowRun, steps: dict[int, Record]) -> tuple[str, ...]:
    """Return a job as the cells of the table."""
    view = jobs.view(run, steps)
    created = run.created.astimezone().strftime("%Y-%m-%d %H:%M") if run.created else NOTHING
    return (
        view.id[: jobs.SHORT],
        printable(view.name),
        view.state,
        printable(jobs.provider_of(run)),
        f"{view.step}/{view.total_steps}" if view.total_steps else NOTHING,
        number(view.train_loss),
        number(view.eval_loss),
        created,
        duration(jobs.seconds(run)),
    )


def print_table(rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows: coloured and fitted on a terminal, else columns as wide as they are."""
    rows = list(rows)
    if sys.stdout.isatty():
        table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
        for cells in rows:
            table.add_row(*(Text(c, style=COLOURS.get(c, "")) for c in cells))
        Console().print(table)
        return
    widths = [max(len(cells[i]) for cells in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
    for cells in [COLUMNS, *rows]:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        say("  ".join(padded).rstrip())


def show_job(text: str, *, as_json: bool) -> None:
    """Print everything about one job."""

    async def work(client: PrefectClient) -> tuple[FlowRun, dict[int, Record], str | None]:
        run = await jobs.find(client, text)
        steps = (await jobs.metrics(client, [run.id])).get(run.id, {})
        return run, steps, await jobs.report_of(client, run)

    run, steps, report = call(work)
    report = report and without_pictures(report)
    if as_json:
        record = jobs.record(run, steps)
        say_json({**record, "metrics": _last(steps), "report": report, "job": _asked(run)})
        return
    for name, value in facts(run, steps).items():
        say(f"{name:<10} {value}")
    if report and sys.stdout.isatty():
        Console().print(Markdown(report))
    elif report:
        say(f"\n{report}")


def facts(run: FlowRun, steps: dict[int, Record]) -> dict[str, str]:
    """Return what is to be said of a job, by name; what is not known is left out."""
    view = jobs.view(run, steps)
    asked = _asked(run).get("training") or {}
    dataset = asked.get("dataset")
    done = f"{view.step}/{view.total_steps} ({view.share:.0%})" if view.total_steps else ""
    found = {
        "id": view.id,
        "name": view.name,
        "state": view.state,
        "message": view.message,
        "provider": jobs.provider_of(run),
        "method": asked.get("method"),
        "model": asked.get("model"),
        "dataset": dataset.get("path") if isinstance(dataset, dict) else dataset,
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


def _asked(run: FlowRun) -> dict[str, Any]:
    job = run.parameters.get("job")
    return job if isinstance(job, dict) else {}


def _last(steps: dict[int, Record]) -> Record:
    """Return the newest value of every metric."""
    last: Record = {}
    for record in steps.values():
        last |= {name: value for name, value in record.items() if value is not None}
    return last
