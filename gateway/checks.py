"""Read a job file with the command line's options, and look at everything before it starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.job_file import load_job
from flows.preflight import ESTIMATE, PREFLIGHT, PROOF, seen_from_here, subject_of
from flows.setup.secrets import have_tokens, named_in
from flows.setup.staging import staged_job
from gateway.exits import note, sentence
from gateway.other_names import answers
from gateway.prefect.settings import PrefectSettings
from trainer.config import FOREIGN_DATA, TrainingJob
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.preflight.table import Needs, Result, refuse, walk


@dataclass(frozen=True, slots=True)
class Shown:
    """What `trainctl validate` prints of one check."""

    name: str
    ok: bool
    text: str
    facts: dict[str, Any]


def checked_job(
    path: Path,
    providers: str | None = None,
    *,
    keep: str | None = None,
    max_cost: float | None = None,
    name: str | None = None,
    for_worker: bool = False,
) -> TrainingJob:
    """Return the job in a file after looking at what can be seen of it from here.

    Args:
        path: the job file.
        providers: names separated by commas, instead of those in the file.
        keep: how long to keep a rented machine, such as 10m, instead of what the file says.
        max_cost: USD, instead of what the file says.
        name: the job's, instead of the one in the file.
        for_worker: a worker trains it, perhaps on another computer. What is not here is noted and
            left to the worker; what is here is checked all the same.

    Raises:
        OrchestratorError: the first thing that is wrong; a `ConfigError` if it is in the file.
    """
    job = load_job(path, name)
    # What the command line says outweighs the file. model_copy validates nothing, so each value is
    # checked where it comes from: here, or by typer.
    if max_cost is not None:
        job = job.model_copy(
            update={"limits": job.limits.model_copy(update={"max_cost": max_cost})}
        )
    if keep is not None:
        job = job.model_copy(update={"keep_minutes": _minutes(keep)})
    if providers is not None:
        job = job.model_copy(update={"provider": _names(providers)})
    refuse_unfit(job, note, for_worker=for_worker)
    return job


def refuse_unfit(job: TrainingJob, say: Callable[[str], None], *, for_worker: bool) -> None:
    """Refuse a job for what can be seen of it from here.

    Args:
        job: its paths are absolute.
        say: called with what a person should know beside.
        for_worker: as for `checked_job`.

    Raises:
        OrchestratorError: the first thing that is wrong.
    """
    if not for_worker:  # a worker has secrets of its own
        have_tokens(named_in(job))
    for words in answers(job.providers):
        say(words)
    # A worker fetches from object stores itself: its keys may be others than ours.
    subject = subject_of(job if for_worker else staged_job(job, say), for_worker=for_worker)
    for field, name in subject.away.items():
        say(f"{field}: {name} is not on this computer; the worker must have it")
    refuse(PREFLIGHT, subject, seen_from_here(job, for_worker=for_worker))


def examine(
    path: Path, say: Callable[[str], None], *, providers: str | None = None, prove: bool = False
) -> list[Shown]:
    """Check job, data, model and machine, and estimate what the training takes.

    Args:
        path: the job file.
        say: called with what takes a while, before it does.
        providers: names separated by commas, instead of those in the file.
        prove: also try how the rows of a batch are laid out; this loads the model.
    """
    try:
        job = load_job(path)
        if providers is not None:
            job = job.model_copy(update={"provider": _names(providers)})
    except OrchestratorError as error:
        return [_shown(Result("job", None, error))]
    return examine_job(job, say, prove=prove)


def examine_job(
    job: TrainingJob, say: Callable[[str], None], *, estimate: bool = True, prove: bool = False
) -> list[Shown]:
    """Check a job, its data, model and machine.

    Args:
        job: its paths are absolute.
        say: called with what takes a while, before it does.
        estimate: whether to estimate what the training takes, too.
        prove: as for `examine`.
    """
    try:
        have_tokens(named_in(job))
        here = staged_job(job, say)
    except OrchestratorError as error:
        return [_shown(Result("job", None, error))]
    for words in answers(job.providers):
        say(words)
    theirs = job.training.trainer in FOREIGN_DATA
    kind = f"trainer {job.training.trainer}" if theirs else f"method {job.training.method}"
    subject, have = subject_of(here), seen_from_here(job) | {Needs.MARKET, Needs.PROBE}
    if PrefectSettings().url:
        have.add(Needs.PREFECT)
    found = [
        Shown("job", ok=True, text=f"{job.name}, {kind}", facts={}),
        *map(_shown, walk(PREFLIGHT, subject, have, say)),
    ]
    # An estimate of a job that cannot run would only hide what is wrong with it.
    if all(check.ok for check in found):
        more = [*([ESTIMATE] if estimate else []), *([PROOF] if prove else [])]
        found += map(_shown, walk(more, subject, have, say))
    return found


def _shown(result: Result) -> Shown:
    if result.error:
        text, facts = sentence(result.error), result.error.to_dict()
        return Shown(result.name, ok=False, text=text, facts=facts)
    found = result.found
    return Shown(
        result.name, ok=True, text=found.text if found else "", facts=found.facts if found else {}
    )


def _minutes(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip().lower())
    if match is None:
        raise ConfigError(f"--keep = {text!r}: is not a time.", "Write it as 90s, 10m or 2h.")
    return float(match[1]) * {"s": 1 / 60, "m": 1, "": 1, "h": 60, "d": 1440}[match[2]]


def _names(text: str) -> str | list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError(
            f"--provider = {text!r}: names no provider.", "Name one, such as local, or vast,runpod."
        )
    return names[0] if len(names) == 1 else names
