"""Look at everything a job needs before anything starts. Nothing here imports torch."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.job_file import load_job
from gateway.exits import sentence
from gateway.view import duration
from trainer.config import TrainingJob
from trainer.data import DatasetReport, inspect_dataset
from trainer.data.reading import names_hub_dataset
from trainer.errors import OrchestratorError, TrainingFailed, from_dict
from trainer.model import check_model_files

ESTIMATE_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    text: str
    facts: dict[str, Any]


def checked_job(path: Path) -> TrainingJob:
    """Return the job in a file after looking at what it names on this computer.

    Raises:
        ConfigError: the file, the dataset or the model is wrong.
    """
    job = load_job(path)
    check_dataset(job)
    check_model_files(job.training.model)
    _check_provider(job)
    return job


def check_dataset(job: TrainingJob) -> DatasetReport | None:
    """Read all rows that are on this computer; None when the Hub has them.

    Raises:
        DataError: there is nothing, or a row cannot be used.
    """
    dataset = job.training.dataset
    sources = [path for path in (dataset.path, dataset.eval_path) if path]
    if any(not Path(path).expanduser().exists() and names_hub_dataset(path) for path in sources):
        return None
    return inspect_dataset(job.training)


def examine(path: Path, say: Callable[[str], None]) -> list[Check]:
    """Check job, data, model and machine, and estimate what the training takes.

    Args:
        path: the job file.
        say: is told what is being looked at, where that takes a while.
    """
    try:
        job = load_job(path)
    except OrchestratorError as error:
        return [Check("job", ok=False, text=sentence(error), facts=error.to_dict())]
    checks = [Check("job", ok=True, text=f"{job.name}, method {job.training.method}", facts={})]
    say("reading the dataset")
    checks.append(_attempt("dataset", lambda: _dataset(job)))
    checks.append(_attempt("model", lambda: _model(job)))
    say("asking the provider")
    checks.append(_attempt("machine", lambda: _machine(job)))
    if not all(check.ok for check in checks):
        return checks
    if importlib.util.find_spec("torch") is None:
        text = "unknown: torch is not installed here"
        return [*checks, Check("estimate", ok=True, text=text, facts={})]
    say("estimating memory and time")
    return [*checks, _attempt("estimate", lambda: _estimate(job))]


def _attempt(name: str, look: Callable[[], tuple[str, dict[str, Any]]]) -> Check:
    try:
        text, facts = look()
    except OrchestratorError as error:
        return Check(name, ok=False, text=sentence(error), facts=error.to_dict())
    return Check(name, ok=True, text=text, facts=facts)


def _dataset(job: TrainingJob) -> tuple[str, dict[str, Any]]:
    report = check_dataset(job)
    if report is None:
        return f"{job.training.dataset.path} on the Hub; its rows are checked when it starts", {}
    text = (
        f"{report.rows:,} rows, format {report.format}, {report.bytes / 1e6:.2f} MB, "
        f"{report.mean_characters:.0f} characters a row, no bad rows"
    )
    return text, asdict(report)


def _model(job: TrainingJob) -> tuple[str, dict[str, Any]]:
    model = job.training.model
    check_model_files(model)
    folder = Path(model).expanduser()
    if not folder.exists():
        return f"{model} on the Hub; it is fetched when the job starts", {"on_hub": True}
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    weights = f"{size / 1e6:.1f} MB of weights" if size else "no weights"
    return f"{model}, {weights}", {"path": str(folder), "weight_bytes": size}


def _machine(job: TrainingJob) -> tuple[str, dict[str, Any]]:
    from blocks.registry import load_provider

    offers = asyncio.run(load_provider(job.provider).offers(job.resources))
    first = offers[0]
    gpu = f"{first.gpu_type}, {first.vram_gb:.0f} GiB free" if first.gpu_count else "CPU, no GPU"
    ram = f", {first.ram_gb:.0f} GiB of memory" if first.ram_gb else ""
    disk = f", {first.disk_gb:.0f} GiB of disk free" if first.disk_gb else ""
    text = f"{first.provider}: {gpu}{ram}{disk}"
    return text, {"offers": [offer.to_dict() for offer in offers]}


def _check_provider(job: TrainingJob) -> None:
    from blocks.registry import load_provider

    load_provider(job.provider)


def _estimate(job: TrainingJob) -> tuple[str, dict[str, Any]]:
    """Estimate in a process of its own: torch must not come into this one."""
    threads = job.resources.cpu_threads
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(job.model_dump_json(), encoding="utf-8")
        try:
            done = subprocess.run(  # noqa: S603 - our own interpreter
                [sys.executable, "-m", "trainer.estimate", str(path)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=ESTIMATE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TrainingFailed(f"The estimate took over {ESTIMATE_SECONDS} s.") from None
    try:
        facts = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise TrainingFailed(
            f"The estimate failed: {reason}.", "Run the job to see more."
        ) from None
    if "class" in facts:
        raise from_dict(facts)
    return _in_words(facts), facts


def _in_words(facts: dict[str, Any]) -> str:
    memory = facts["memory_gb"]
    time = facts["seconds"]
    # Loading, evaluations and checkpoints come on top.
    took = f"about {duration(time)}" if time is not None else f"unknown ({facts['time_note']})"
    fits = "" if facts["fits"] else f", MORE than the {facts['available_gb']:.1f} GB there are"
    return (
        f"{facts['trainable_parameters']:,} of {facts['parameters']:,} parameters trained, "
        f"{facts['tokens']:,} tokens, {facts['steps']:,} steps; "
        f"{facts['memory_kind']} peak {memory['peak']:.2f} GB{fits}; training {took}"
    )
