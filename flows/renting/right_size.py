"""Which machine is large enough for a job, and no larger: by the memory of its GPUs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from blocks.models import Offer
from flows.logger import logger
from flows.prefect_api import UNANSWERED
from flows.renting.expected_cost import History, ranked
from flows.renting.market import Choice, market
from flows.run_folder import RunFolder, newest, run_folders
from trainer.config import TrainingJob
from trainer.contract.errors import OrchestratorError
from trainer.contract.files import read_json
from trainer.contract.memory import ROOM

GB_PER_GIB = 2**30 / 1e9
CHEAPER = 0.95  # a machine that saves less than a twentieth is not worth naming
PATIENCE_SECONDS = 30.0  # for the providers to make offers after a run
RUNS = 200  # reports that are looked at, the newest first
ALIKE = (
    *("model", "method", "trainer", "dataset", "max_length", "peft", "quantization", "optim"),
    *("per_device_train_batch_size", "packing", "parallelism", "dtype", "gradient_checkpointing"),
)
"""The settings that decide what training holds in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What each GPU of a job has to hold, in GB of 1e9 bytes."""

    gb: float
    sure: str
    """measured: by a run of these settings; computed: by tracing the model; guessed: by a formula."""

    def __str__(self) -> str:
        return f"{self.gb:.1f} GB ({self.sure})"


def need_of(job: TrainingJob, facts: dict[str, Any] | None) -> Need | None:
    """Return what a job needs of each GPU, as surely as that is known; None: it is not.

    Args:
        job: the job.
        facts: as `flows.renting.cost_estimate.estimated` returns them; None: not known.
    """
    if (gb := _measured(job)) is not None:
        return Need(gb=gb, sure="measured")
    gpu = (facts or {}).get("gpu_memory")
    if not gpu:
        return None
    return Need(gb=gpu["gb"], sure=gpu["sure"])


def holds(offer: Offer, need: Need) -> bool | None:
    """Return whether an offer's GPUs hold a job; None where it has none, or says no size."""
    if not offer.gpu_count or not offer.vram_gb:
        return None
    return need.gb <= room_on(offer)


def room_on(offer: Offer) -> float:
    """Return how many GB each GPU of an offer may hold."""
    return offer.vram_gb * GB_PER_GIB * ROOM


def any_size(job: TrainingJob) -> TrainingJob:
    """Return a job that does not say which GPUs, nor how large they are."""
    resources = job.resources.model_copy(update={"gpu_types": [], "min_vram_gb": None})
    return job.model_copy(update={"resources": resources})


def right_sized(
    choices: Sequence[Choice], job: TrainingJob, facts: dict[str, Any] | None, need: Need
) -> Choice | None:
    """Return the choice by which a job is expected to cost least on GPUs that hold it.

    Args:
        choices: of any size.
        job: the job.
        facts: see `need_of`.
        need: what each GPU has to hold.
    """
    able = [choice for choice in choices if holds(choice.offer, need)]
    if not able:
        return None
    offers = [(choice.provider, choice.offer) for choice in able]
    return able[ranked(offers, job, facts, History())[0]]


async def advice(
    choices: Sequence[Choice], job: TrainingJob, facts: dict[str, Any] | None
) -> str | None:
    """Return in one sentence which machine is large enough, and what to set to have it.

    Args:
        choices: what the job would take, first choice first.
        job: the job.
        facts: see `need_of`.

    Returns:
        None where nobody knows what the job needs, or it takes no GPU.
    """
    need = need_of(job, facts)
    if need is None or not choices or not choices[0].offer.gpu_count:
        return None
    asked = any_size(job)
    all_sizes = choices if asked == job else (await market(asked, facts)).choices
    best = right_sized(all_sizes, job, facts, need)
    if best is None:
        return f"no machine for hire holds the peak of {need} on each GPU"
    text = f"{best} is the cheapest that holds the peak of {need}"
    first = choices[0].offer
    if best.offer.instance_type == first.instance_type and best.offer.spot == first.spot:
        return f"{text}; it is the first choice"
    wanted = math.ceil(need.gb / ROOM / GB_PER_GIB)
    if holds(first, need) is False:
        return f"{text}; the first choice is too small: set resources.min_vram_gb: {wanted}"
    return (
        f"{text}; set resources.gpu_types: [{best.offer.gpu_type}], or min_vram_gb: {wanted} alone"
    )


async def would_have_done(job: TrainingJob, report: dict[str, Any]) -> str | None:
    """Return the cheapest machine for hire that would hold what a job held, if one is cheaper.

    Args:
        job: what was trained.
        report: see `flows.reporting.report.make_report`.

    Returns:
        It and the peak in words. None: there is no cheaper one, no GPU was used, or the providers do
        not answer at once.
    """
    machines = [one for one in report["machines"] if one.get("gpu_count")]
    peak, paid = report["usage"].get("memory_gb"), [one["price_per_hour"] for one in machines]
    if not peak or not machines or not all(paid):
        return None
    need = Need(gb=peak, sure="measured")
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            found = await market(any_size(job))
    except (OrchestratorError, TimeoutError, *UNANSWERED) as error:
        logger().debug("no cheaper machine is looked for: %s", error)
        return None
    # By the hour, as the price was: how long another GPU would have taken is an estimate.
    able = [one for one in found.choices if holds(one.offer, need)]
    best = min(able, key=lambda one: one.offer.rank_price, default=None)
    if best is None or best.offer.rank_price >= min(paid) * CHEAPER:
        return None
    return f"{best} holds the peak of {need}"


def _measured(job: TrainingJob) -> float | None:
    """Return the highest peak of the runs that held what this job will hold; None: there is none."""
    wanted = _deciding(job.model_dump(mode="json"))
    peaks = [
        float(report["usage"]["memory_gb"])
        for report in _reports()
        if "memory_gb" in report.get("usage", {})
        and any(machine.get("gpu_count") for machine in report.get("machines", []))
        and _deciding(report.get("job", {})) == wanted
    ]
    return max(peaks, default=None)


def _deciding(job: dict[str, Any]) -> dict[str, Any]:
    training = job.get("training", {})
    resources = job.get("resources", {})
    return {
        **{name: training.get(name) for name in ALIKE},
        "accumulates": training.get("gradient_accumulation_steps", 1) > 1,
        "gpu_count": resources.get("gpu_count") or 1,
    }


def _reports() -> Iterable[dict[str, Any]]:
    runs = [RunFolder(folder.name) for folder in run_folders()]
    for run in newest(runs, RUNS, lambda run: run.report):
        yield read_json(run.report) or {}
