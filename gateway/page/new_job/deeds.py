"""What the form's buttons do with a draft: look at it, ask for offers, hand it over."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect.client.orchestration import PrefectClient

from flows.job_file import with_absolute_paths
from gateway.access.callers import Caller
from gateway.checks import Shown, examine_job, refuse_unfit
from gateway.cli.renting import Hirable, for_hire
from gateway.exits import sentence
from gateway.operations.creating import JobRequest, start_job
from gateway.page.new_job.draft import Draft
from gateway.page.new_job.fields import fields
from gateway.prefect.client import JobRun
from trainer.config import TrainingJob
from trainer.config.explain import Fault, faults, place_in, validated
from trainer.contract.errors import OrchestratorError

OFFERS = 20
_looking = threading.Lock()
"""Checks read data sets and load models: one at a time leaves the service room for everybody else."""


@dataclass(slots=True)
class Outcome:
    """What came of a deed."""

    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checks: list[Shown] = field(default_factory=list)
    offers: Hirable | None = None

    def note(self, text: str) -> None:
        """Keep what a person should know; what merely takes a while is over when it is read."""
        if not text.endswith("…"):
            self.notes.append(text)


def mistakes(draft: Draft) -> list[Fault]:
    """Return what is wrong with a draft by itself."""
    value = dict(draft.value)
    value["training"] = value.get("training") or {}  # so that what is missing of it is named
    return [_placed(fault) for fault in faults(TrainingJob, value)]


def look(draft: Draft, *, estimate: bool) -> Outcome:
    """Check a draft as `trainctl validate` does.

    Args:
        draft: without mistakes of its own.
        estimate: whether to estimate what the training takes, too.
    """
    found = Outcome()
    with _looking:
        found.checks = examine_job(_job(draft), found.note, estimate=estimate)
    found.faults = [
        Fault(place, check.text)
        for check in found.checks
        if not check.ok and (place := place_in(TrainingJob, _of_training(check.text)))
    ]
    return found


def ask_offers(draft: Draft) -> Outcome:
    """Ask what there is for hire for a draft, as `trainctl offers` does."""
    found = Outcome()
    with _looking:
        job = _job(draft)
        refuse_unfit(job, found.note, for_worker=False)
        found.offers = for_hire(job, OFFERS, found.note)
    return found


def check_for_worker(draft: Draft) -> Outcome:
    """Look at a draft as far as it can be seen from here, as `trainctl submit` does first."""
    found = Outcome()
    try:
        with _looking:
            refuse_unfit(_job(draft), found.note, for_worker=True)
    except OrchestratorError as error:
        found.faults = [fault_of(error)]
    return found


async def submit(
    client: PrefectClient,
    caller: Caller,
    draft: Draft,
    form: str,
    deployments: Mapping[bool, str],
) -> JobRun:
    """Hand a draft over to the workers, once however often the button is pressed.

    Args:
        client: of Prefect.
        caller: who asks.
        draft: what to train.
        form: the id of the form from which it came.
        deployments: FLOW/NAME, by whether a job trains on the computer of its worker.

    Raises:
        ConfigError: Prefect has no such deployment, or the pool refuses the job.
    """
    request = JobRequest(job=draft.value)
    digest = hashlib.sha256(f"{form}\n{draft.text}".encode()).hexdigest()
    run, _ = await start_job(
        client, caller, request, f"page-{digest[:32]}", deployments=deployments
    )
    return run


def fault_of(error: OrchestratorError) -> Fault:
    """Return an error with the field that it names."""
    text = sentence(error)
    return Fault(place_in(TrainingJob, _of_training(text)), text)


def _placed(fault: Fault) -> Fault:
    """Return a fault with the field of the form that shows it; empty: none does."""
    places = (fault.place, f"{fault.place}.path")  # of a data set
    return Fault(next((place for place in places if place in fields()), ""), fault.text)


def _of_training(text: str) -> str:
    """Return a sentence that begins with a field of the training as one of the whole job's."""
    return text if place_in(TrainingJob, text) else f"training.{text}"


def _job(draft: Draft) -> TrainingJob:
    # As a worker reads the relative paths of a job that came without a file.
    value: dict[str, Any] = with_absolute_paths(draft.value, Path.home())
    return validated(TrainingJob, value, "The job", "Correct it.")
