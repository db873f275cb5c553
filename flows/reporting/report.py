"""The report of a completed job: as JSON for programs, and as Markdown for people."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from trainer.config import FOREIGN_DATA, DatasetFormat, TrainingJob
from trainer.contract.events import Kind, parse_events
from trainer.contract.metrics import Record
from trainer.contract.words import number, size, time_taken
from trainer.results.markdown import code, table
from trainer.results.model_card import loading
from trainer.results.summary import Summary

MODEL_FILES = ("adapter_model.safetensors", "model.safetensors")
TEXTS = {"format": set(get_args(DatasetFormat)), "dtype": {"float32", "bfloat16", "float16"}}
"""The only words that are taken from a machine; any other text that it writes is left out, but for
the first row, which is shown as code."""
LONGEST_ROW, WIDTH = 600, 100  # characters of a row that are shown, and of one of its lines


def make_report(
    job: TrainingJob,
    run: RunFolder,
    folder: Path,
    manifest: Mapping[str, Any],
    steps: Mapping[int, Record],
) -> dict[str, Any]:
    """Return what is known of a completed job. Times are seconds, memory is GB, money is USD.

    Args:
        job: what was asked for.
        run: its folder.
        folder: the verified artifact.
        manifest: the artifact's, written by the machine: only numbers and known words are taken.
        steps: the metrics by step.
    """
    return {
        "name": job.name,
        "run_id": run.run_id,
        "path": str(folder),
        **_model_file(folder, manifest),
        "metrics": _numbers(manifest.get("metrics")),
        "usage": _numbers(manifest.get("usage")),
        "data": _facts(manifest.get("data")),
        "training": _facts(manifest.get("training")),
        "seconds": seconds_trained(steps),
        "tokens_per_second": _usual(steps, "tokens_per_second"),
        **_machines(Journal.of(run)),
        "reports": str(run.reports) if run.reports.is_dir() else None,
        "first_row": _first_row(run),
        "job": job.model_dump(mode="json"),
    }


def as_markdown(job: TrainingJob, report: Mapping[str, Any], picture: str = "") -> str:
    """Return the report as a person reads it.

    Args:
        job: what was asked for.
        report: see `make_report`.
        picture: the curves, as an image of Markdown.
    """
    summary = Summary(
        config=job.training,
        metrics=report["metrics"],
        data=report["data"],
        made=report["training"],
    )
    asked = [report["warning"]] if report.get("warning") else []
    results = summary.results()
    parts = [
        f"# {job.name}",
        *(f"> **Warning:** {warning}" for warning in [*asked, *summary.warnings()]),
        summary.headline(),
        picture,
        "\n".join(table("Result", "before → after", results)) if results else "",
        "\n".join(table("Training", "value", summary.settings())),
        _as_block(report["first_row"]) if report.get("first_row") else "",
        "\n".join(table("Run", "value", _run(report))),
        "\n".join(table("Artifact", "value", _artifact(report))),
    ]
    if job.training.trainer not in FOREIGN_DATA:  # what another trainer made is not known here
        sees = bool(report["training"].get("sees"))
        python = "\n".join(loading(job.training, report["path"], sees=sees))
        parts += ["## Load it", f"```python\n{python}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def seconds_trained(steps: Mapping[int, Record]) -> float:
    """Return the seconds from the first metric to the last, without those between two attempts."""
    # By attempt, because each is timed by its own machine, and two clocks cannot be subtracted.
    attempts: dict[Any, list[datetime]] = {}
    for record in steps.values():
        if record.get("timestamp"):
            moment = datetime.fromisoformat(record["timestamp"])
            attempts.setdefault(record.get("attempt"), []).append(moment)
    return sum((max(times) - min(times)).total_seconds() for times in attempts.values())


def _run(report: Mapping[str, Any]) -> dict[str, str]:
    """Return time, speed, memory, machine and price in words, as far as they are known."""
    usage = report["usage"]
    rows = {"time": time_taken(report["seconds"])}
    if {"seconds", "seconds_predicted"} <= usage.keys():
        took, expected = time_taken(usage["seconds"]), time_taken(usage["seconds_predicted"])
        rows["time in training steps"] = f"{took} (predicted {expected})"
    if report["tokens_per_second"]:
        rows["speed"] = f"{number(report['tokens_per_second'])} tokens/s, median of the steps"
    if {"memory_gb", "memory_gb_predicted"} <= usage.keys():
        used, expected = number(usage["memory_gb"]), number(usage["memory_gb_predicted"])
        rows["peak memory"] = f"{used} GB (predicted {expected} GB)"
    if report["machines"]:
        rows["machine"] = "; ".join(map(_machine, report["machines"]))
    if report.get("cheaper"):
        rows["a cheaper machine would have done"] = report["cheaper"]
    if report["lost_machines"]:
        lost, steps = number(report["lost_machines"]), number(report["lost_steps"])
        rows["lost machines"] = f"{lost}; {steps} steps were trained again"
    if report["cost"]:
        rows["cost"] = f"{number(report['cost'])} USD until the result was verified"
    return rows


def _first_row(run: RunFolder) -> str | None:
    """Return the first row as the model saw it, in one line, as far as it can be shown."""
    try:
        events = parse_events(run.events.read_bytes().splitlines())
    except OSError:
        return None
    rows = (event.facts.get("row") for event in events if event.kind == Kind.FIRST_ROW)
    row = next((row for row in rows if isinstance(row, str)), "")
    # A machine writes it. What joins emoji is not printable, but does no harm.
    shown = "".join(c if c.isprintable() or c == "\u200d" else " " for c in row[:LONGEST_ROW])
    return shown.strip() or None


def _as_block(row: str) -> str:
    """Return a row as a block of code, in which nothing is Markdown or HTML."""
    longest = max((len(ticks) for ticks in re.findall("`+", row)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = [row[begin : begin + WIDTH] for begin in range(0, len(row), WIDTH)]
    return "\n".join(["The first row, «learned»:", "", f"{fence}text", *lines, fence])


def _machine(machine: Mapping[str, Any]) -> str:
    price = machine["price_per_hour"]
    parts = [
        f"{machine['provider']}: {machine['instance_type']}{' (spot)' if machine['spot'] else ''}",
        machine["region"] if machine["region"] != machine["provider"] else "",
        f"{number(price)} USD/h" if price else "",
    ]
    return ", ".join(part for part in parts if part)


def _artifact(report: Mapping[str, Any]) -> dict[str, str]:
    rows = {
        "folder": code(report["path"]),
        "file": code(Path(report["file"]).name),
        "size": size(report["bytes"]),
        "SHA-256": code(report["sha256"]),
    }
    if report.get("reports"):
        rows["TensorBoard and other reports"] = code(report["reports"])
    return rows


def _machines(journal: Journal) -> dict[str, Any]:
    """Return the machines that the job finished on, and what all of them cost so far."""
    last = journal.hires[-1].attempt if journal.hires else 0
    names = ("provider", "instance_type", "region", "spot", "price_per_hour")
    return {
        "machines": [
            {
                **{name: getattr(hire, name) for name in names},
                **{name: hire.machine.get(name) for name in ("gpu_type", "gpu_count")},
            }
            for hire in journal.hires
            if hire.attempt == last
        ],
        "lost_machines": journal.lost_machines,
        "lost_steps": journal.lost_steps,
        "cost": journal.cost(),
    }


def _model_file(folder: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights' file: the adapter, else the model, else the largest of its shards."""
    files: dict[str, dict[str, Any]] = manifest["files"]
    name = next((n for n in MODEL_FILES if n in files), None)
    if name is None:
        name = max(files, key=lambda n: int(files[n]["bytes"]))
    return {"file": str(folder / name), **files[name]}


def _numbers(metrics: Any) -> dict[str, float]:
    """Return the entries of what a machine calls metrics that are numbers."""
    return {k: float(v) for k, v in _facts(metrics).items() if not isinstance(v, str)}


def _facts(told: Any) -> dict[str, Any]:
    """Return what a machine says of a training, as far as it can be shown."""
    # Nobody vouches for a rented machine, and the report is rendered as Markdown: free text could
    # bring links or pictures along. `type`, not isinstance: True is an int, and not a number here.
    # The bound drops inf too, which is not JSON, and nan, which compares false.
    entries = told.items() if isinstance(told, dict) else ()
    return {
        name: value
        for name, value in entries
        if (type(value) in {int, float} and abs(value) < sys.maxsize)
        or (isinstance(value, str) and value in TEXTS.get(name, ()))
    }


def _usual(steps: Mapping[int, Record], name: str) -> float | None:
    values = [r[name] for r in steps.values() if isinstance(r.get(name), int | float)]
    return statistics.median(values) if values else None
