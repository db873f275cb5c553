"""What the Prefect UI shows of a running job: a progress bar, metrics, the loss curve.

Each is one artifact, made once and then updated in place; making them again and again would fill
the page with cards. `trainctl monitor` reads the same artifacts, so it works from anywhere.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from flows.logger import logger
from flows.prefect_api import CREATE_SECONDS, UNANSWERED, asking_once
from flows.shown import CURVE, METRICS, PROGRESS
from flows.streaming.chart import Panel, chart, data_uri, thinned
from flows.streaming.metrics_tail import MetricsTail
from flows.wanted import unhurried
from trainer.contract.metrics import OF_METHODS, Record
from trainer.contract.words import number, rounded, time_taken
from trainer.results.markdown import table as markdown_table

UPDATE_SECONDS = 2.0
CROWDED_SECONDS = 60.0  # the same where many runs are executed in one process
REST = 4.0  # the least pause, as a multiple of the time that publishing took
KINDS = {
    PROGRESS: ("progress", "How much of the training is done"),
    CURVE: ("markdown", "The loss curve and the current metrics; refreshes every 2 s"),
    METRICS: ("table", "The metrics of the steps, thinned"),
}
"""Prefect's type of each artifact, and what its card says."""
METRIC_ROWS = 120  # in the machine-readable artifact; a sparkline has no more cells
SHOWN = (
    "step",
    "total_steps",
    "epoch",
    "train_loss",
    "eval_loss",
    "perplexity",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "samples_per_second",
    "gpu_memory_allocated_gb",
    "gpu_memory_reserved_gb",
    "gpu_utilization_percent",
    "cpu_percent",
    "ram_gb",
    "eta_seconds",
    "timestamp",
)
OF_METHOD = tuple(name for plain in OF_METHODS for name in (plain, f"eval_{plain}"))
JUDGED_BY = ("reward", "rewards/margins", "accuracy")
"""What is drawn beside the loss: the first of these that a method logs."""
TITLES = {"train_loss": "loss", "rewards/margins": "reward margins"}
NOW = {
    "epoch": ("epoch", ""),
    "train_loss": ("training loss", ""),
    "eval_loss": ("evaluation loss", ""),
    "perplexity": ("perplexity", ""),
    **{name: (name.replace("eval_", "evaluation "), "") for name in OF_METHOD},
    "learning_rate": ("learning rate", ""),
    "grad_norm": ("gradient norm", ""),
    "tokens_per_second": ("speed", " tokens/s"),
    "samples_per_second": ("rows per second", ""),
    "gpu_memory_allocated_gb": ("GPU memory in use", " GB"),
    "gpu_memory_reserved_gb": ("GPU memory reserved", " GB"),
    "gpu_utilization_percent": ("GPU", " %"),
    "cpu_percent": ("CPU", " %"),
    "ram_gb": ("main memory", " GB"),
}
"""What the table under the curve shows: the metric, its name in words, and its unit."""


class Board:
    """Publishes the metrics of one run."""

    def __init__(self, client: PrefectClient, run_id: UUID, metrics: Path) -> None:
        self._client = client
        self._run_id = run_id
        self._tail = MetricsTail(metrics)
        # Where there is nothing to show yet, nobody has shown anything.
        self._artifacts: dict[str, UUID] | None = None if metrics.exists() else {}

    async def run(self) -> None:
        """Publish whatever is new, every two seconds. Runs until it is cancelled.

        Less often while Prefect is slow, so that the boards of many jobs do not keep it slow.
        """
        # What many write as they begin would keep others from beginning.
        await asyncio.sleep(unhurried(UPDATE_SECONDS, CROWDED_SECONDS) - UPDATE_SECONDS)
        while True:
            began = time.monotonic()
            await self._publish()
            pause = unhurried(UPDATE_SECONDS, CROWDED_SECONDS)
            await asyncio.sleep(max(pause, REST * (time.monotonic() - began)))

    async def finish(self) -> None:
        """Publish the last state."""
        await self._publish()

    async def _publish(self) -> None:
        # Read in a thread: after an attach this may be a hundred thousand lines.
        if not await asyncio.to_thread(self._tail.read_new):
            return
        steps = self._tail.steps
        try:
            with asking_once(CREATE_SECONDS):
                for key, make in MAKERS.items():
                    await self._put(key, make(steps))
        except UNANSWERED as error:
            # The next round shows more than this one would have.
            logger().debug("Prefect took no metrics: %s", error)
            self._tail.unseen = True

    async def _put(self, key: str, data: Any) -> None:
        # Looked up once: a flow that attaches goes on with the cards that its predecessor made.
        if self._artifacts is None:
            self._artifacts = await self._existing()
        if key in self._artifacts:
            await self._client.update_artifact(self._artifacts[key], ArtifactUpdate(data=data))
        else:
            kind, description = KINDS[key]
            made = await self._client.create_artifact(
                ArtifactCreate(
                    key=key,
                    type=kind,
                    description=description,
                    data=data,
                    flow_run_id=self._run_id,
                )
            )
            self._artifacts[key] = made.id

    async def _existing(self) -> dict[str, UUID]:
        """Return the artifacts that an earlier process of this run made."""
        found = await self._client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[self._run_id]))
        )
        return {artifact.key: artifact.id for artifact in found if artifact.key}


def progress(steps: dict[int, Record]) -> float:
    """Return how much is done, in percent."""
    last = steps[max(steps)]
    share = float(last["step"]) / max(1, last.get("total_steps") or 1)
    return round(100.0 * min(1.0, share), 1)


def curve(steps: dict[int, Record]) -> str:
    """Return markdown: the picture of the curves, and the current metrics under it."""
    rows = current(steps)
    return "\n".join([picture(steps), "", *markdown_table("metric", "now", rows)])


def picture(steps: dict[int, Record]) -> str:
    """Return the curves as an image of Markdown: the loss, and what the method is judged by."""
    last = steps[max(steps)]
    total = last.get("total_steps")
    place = f"step {number(last['step'])}{f' of {number(total)}' if total else ''}"
    names = ["train_loss", next((n for n in JUDGED_BY if _has(steps, n)), None)]
    if names[1] == "reward":  # there the loss says little
        names.reverse()
    panels = [
        Panel(TITLES.get(name, name), _points(steps, name), _points(steps, _of_evaluation(name)))
        for name in names
        if name
    ]
    first = panels[0]
    panels[0] = Panel(f"{first.title}, {place}", first.train, first.evaluation)
    return f"![curves at {place}]({data_uri(chart(panels))})"


def current(steps: dict[int, Record]) -> dict[str, str]:
    """Return the newest value of each metric in words, by name; what is not known is left out."""
    # Evaluations and GPU readings are not in every record, so the newest of each may be older.
    last: Record = {}
    for record in steps.values():
        last |= {name: value for name, value in record.items() if value is not None}
    total = f" of {number(last['total_steps'])}" if last.get("total_steps") else ""
    rows = {"step": f"{number(last['step'])}{total}"}
    for name, (words, unit) in NOW.items():
        if name in last:
            rows[words] = f"{number(last[name])}{unit}"
    left = last.get("eta_seconds")
    return rows | ({"time left": time_taken(left)} if left is not None else {})


def table(steps: dict[int, Record]) -> str:
    """Return the metrics as JSON rows, thinned, the last step always among them."""
    numbers = [int(x) for x, _ in thinned([(float(s), 0.0) for s in steps], METRIC_ROWS)]
    # Evaluations are few, and thinning by step would hit none of them.
    evaluated = [s for s, record in steps.items() if record.get("eval_loss") is not None]
    kept = sorted({*numbers, *evaluated[-METRIC_ROWS:]})
    known = [name for name in OF_METHOD if _has(steps, name)]
    rows = [{name: _short(steps[s].get(name)) for name in (*SHOWN, *known)} for s in kept]
    return json.dumps(rows)


MAKERS: dict[str, Callable[[dict[int, Record]], Any]] = {
    PROGRESS: progress,
    CURVE: curve,
    METRICS: table,
}


def _points(steps: dict[int, Record], name: str) -> list[tuple[float, float]]:
    return [(s, r[name]) for s, r in steps.items() if isinstance(r.get(name), int | float)]


def _has(steps: dict[int, Record], name: str) -> bool:
    return any(isinstance(record.get(name), int | float) for record in steps.values())


def _of_evaluation(name: str) -> str:
    return "eval_loss" if name == "train_loss" else f"eval_{name}"


def _short(value: Any) -> Any:
    """Return a number with four significant digits, anything else as it is."""
    return rounded(value) if isinstance(value, float) else value
