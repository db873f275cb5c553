"""Prove that the artifact is whole, and report it."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import acreate_markdown_artifact

from flows.run_folder import RunFolder
from flows.streaming.outputs import put_aside, verify_output
from flows.tasks.download import partial_of
from flows.tasks.step import step
from trainer.config import FOREIGN_DATA, TrainingJob
from trainer.errors import IntegrityError
from trainer.files import replace_json
from trainer.methods import METHODS
from trainer.metrics import read_metrics
from trainer.model_card import MERGED

MODEL_FILES = ("adapter_model.safetensors", "model.safetensors")


@step
async def verify(job: TrainingJob, folder: str, warning: str = "") -> dict[str, Any]:
    """Read every file again from the disk, compare it, and publish the report.

    Args:
        job: what was trained.
        folder: of the artifact.
        warning: what a person must know though the job completed.

    Raises:
        IntegrityError: naming the first file that differs; the artifact is no longer at its place.
    """
    try:
        manifest = await asyncio.to_thread(verify_output, Path(folder))
    except IntegrityError:
        put_aside(Path(folder), partial_of(Path(folder)))
        raise
    run = RunFolder.of_this_run()
    report = {
        "name": job.name,
        "run_id": run.run_id,
        "path": folder,
        **_model_file(Path(folder), manifest),
        "metrics": _numbers(manifest.get("metrics")),
        "usage": _numbers(manifest.get("usage")),
        "data": manifest.get("data", {}),
        "seconds": await asyncio.to_thread(_duration, run),
        "reports": str(run.reports) if run.reports.is_dir() else None,
        "warning": f"{warning}. Do it with: trainctl push {run.run_id[:8]}" if warning else None,
    }
    replace_json(run.report, report)
    await acreate_markdown_artifact(
        key="training-report", markdown=as_markdown(job, report), description="Artifact report"
    )
    if report["warning"]:
        get_run_logger().warning("%s", report["warning"])
    get_run_logger().info("artifact %s sha256 %s", report["file"], report["sha256"])
    return report


def as_markdown(job: TrainingJob, report: dict[str, Any]) -> str:
    """Return the report as a person reads it: what, where, how good, how to load it."""
    method = METHODS[job.training.method]
    kind = method.auto_class(adapters=job.training.peft is not None)
    package = "peft" if job.training.peft else "transformers"
    rows = {
        "path": f"`{report['path']}`",
        "file": f"`{Path(report['file']).name}`",
        "size": f"{report['bytes'] / 1e6:.2f} MB",
        "SHA-256": f"`{report['sha256']}`",
        "duration": f"{report['seconds']:.0f} s",
        **({"reports": f"`{report['reports']}`"} if report.get("reports") else {}),
        **_usage_in_words(report["usage"]),
        **{name: f"{value:.6g}" for name, value in report["metrics"].items()},
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    warning = f"**{report['warning']}**\n\n" if report.get("warning") else ""
    head = f"# {job.name}\n\n{warning}| | |\n| --- | --- |\n{table}\n"
    if job.training.trainer in FOREIGN_DATA:  # nobody here knows what it made
        return head
    plain = method.auto_class(adapters=False)
    merged = (
        f"\nOr, without PEFT:\n\n```python\nfrom transformers import {plain}\n\n"
        f'model = {plain}.from_pretrained("{report["path"]}/{MERGED}")\n```\n'
    )
    return (
        f"{head}\n## Load it\n\n```python\n"
        f"from {package} import {kind}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {kind}.from_pretrained("{report["path"]}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{report["path"]}")\n```\n'
        f"{merged if job.training.merge else ''}"
    )


def _model_file(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the weights' file: the adapter, else the model, else the largest of its shards."""
    files: dict[str, dict[str, Any]] = manifest["files"]
    name = next((n for n in MODEL_FILES if n in files), None)
    if name is None:
        name = max(files, key=lambda n: int(files[n]["bytes"]))
    return {"file": str(folder / name), **files[name]}


def _usage_in_words(usage: dict[str, float]) -> dict[str, str]:
    """Return what was used and what was predicted, where the trainer told both."""
    kinds = {"memory_gb": ("peak memory", "GB"), "seconds": ("training time", "s")}
    return {
        words: f"{usage[name]:.2f} {unit} (predicted {usage[f'{name}_predicted']:.2f} {unit})"
        for name, (words, unit) in kinds.items()
        if {name, f"{name}_predicted"} <= usage.keys()
    }


def _numbers(metrics: Any) -> dict[str, float]:
    """Return the entries of what a machine calls metrics that are numbers."""
    entries = metrics.items() if isinstance(metrics, dict) else ()
    return {k: float(v) for k, v in entries if type(v) in {int, float} and abs(v) < sys.maxsize}


def _duration(run: RunFolder) -> float:
    """Return the seconds from the first metric to the last."""
    steps, _ = read_metrics(run.metrics)
    times = [datetime.fromisoformat(r["timestamp"]) for r in steps.values() if r.get("timestamp")]
    return (max(times) - min(times)).total_seconds() if times else 0.0
