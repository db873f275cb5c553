"""A batch as it will be submitted: its jobs one by one, in an order in which each comes after what it needs.

Everything that is wrong in the file is refused here, before anything starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from flows.batches import matrix
from flows.batches.batch_file import BatchEntry, BatchSettings, read_batch
from flows.batches.references import (
    OUTPUT,
    check_attribute,
    references,
    whole_reference,
)
from flows.batches.retries import Retries
from flows.job_file import source_of, with_absolute_paths
from flows.scheduling.dependencies import WantedEnd, as_label
from trainer.config import TrainingJob
from trainer.config.explain import validated
from trainer.config.methods import METHODS
from trainer.contract.errors import ConfigError

MAX_JOBS = 10_000  # of a batch: all of them are read at every look at it
LOCAL, CLOUD = "train/local", "train/cloud"
TAKES_MODELS = ("training.model", "training.reward_model")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedJob:
    """A job of a batch as it will be submitted."""

    name: str
    job: TrainingJob
    after: dict[str, WantedEnd]
    """By the names of jobs: what it says, and those whose output it takes."""
    deployment: str
    retries: Retries | None = None

    def body(self) -> dict[str, Any]:
        """Return what makes it the job that it is: two with equal bodies are one."""
        return {
            # Without defaults: those of a newer version would make another job of it.
            "job": self.job.model_dump(mode="json", exclude_unset=True),
            "after": as_label(self.after),
            "deployment": self.deployment,
            "retries": self.retries.model_dump() if self.retries else None,
        }

    def digest(self) -> str:
        """Return a hash of its body."""
        text = json.dumps(self.body(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """A batch as it will be submitted."""

    settings: BatchSettings
    jobs: tuple[PlannedJob, ...]
    """Each after those that it comes after."""
    source: str = ""
    """The name of its file, for messages."""

    @property
    def name(self) -> str:
        """The batch's name."""
        return self.settings.name


@dataclass(slots=True)
class _Draft:
    """A job on its way into the plan."""

    entry: BatchEntry
    name: str
    where: str
    settings: dict[str, Any]
    after: dict[str, WantedEnd] = field(default_factory=dict)


def load_plan(path: Path, name: str | None = None) -> BatchPlan:
    """Return the batch in a file, checked as a whole; the files of its jobs are not looked at.

    Args:
        path: YAML or TOML; - reads it from standard input.
        name: of the batch, instead of the one in the file.

    Raises:
        ConfigError: naming the field, the value and the remedy.
    """
    settings, entries = read_batch(path, name)
    source = source_of(path)
    drafts, groups = _drafts(entries, source)
    for draft in drafts.values():
        draft.after = _after(draft, drafts, groups)
    jobs: dict[str, PlannedJob] = {}
    for one in _in_order(drafts, source):
        draft = drafts[one]
        jobs[one] = _planned(draft, settings, jobs)
    return BatchPlan(settings=settings, jobs=tuple(jobs.values()), source=source)


def _drafts(
    entries: Iterable[BatchEntry], source: str
) -> tuple[dict[str, _Draft], dict[str, list[str]]]:
    """Return all jobs by name, and the names of those that come of one entry by the entry's."""
    drafts: dict[str, _Draft] = {}
    groups: dict[str, list[str]] = {}
    for entry in entries:
        where = f"{source}: jobs.{entry.name}"
        found = matrix.combinations(entry.matrix, where)
        if len(drafts) + len(found) > MAX_JOBS:
            raise ConfigError(
                f"{where}: with it the batch has more than {MAX_JOBS:,} jobs.",
                "Make several batches.",
            )
        known = {**entry.settings, "after": entry.after}
        for name, values in zip(matrix.names(entry.name, found), found, strict=True):
            filled = matrix.filled(known, values, where)
            own = BatchEntry(**{**_fields(entry), "after": filled.pop("after")})
            if name in drafts or name == "matrix":
                raise ConfigError(
                    f"{where}: the name {name!r} is {'taken' if name in drafts else 'reserved'}.",
                    "Give each job a name of its own; one with a matrix may have "
                    f"{entry.name}-${{matrix.NAME}}.",
                )
            settings = with_absolute_paths(filled | {"name": name}, entry.folder)
            drafts[name] = _Draft(own, name, f"{source}: jobs.{name}", settings)
            groups.setdefault(entry.name, []).append(name)
    return drafts, groups


def _fields(entry: BatchEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in BatchEntry.__slots__}


def _after(
    draft: _Draft, drafts: dict[str, _Draft], groups: dict[str, list[str]]
) -> dict[str, WantedEnd]:
    """Return what a job comes after, by the names of jobs."""
    found: dict[str, WantedEnd] = {}
    for name, ending in draft.entry.after.items():
        for one in [name] if name in drafts else groups.get(name, []):
            found[one] = WantedEnd(ending)
        if name not in drafts and name not in groups:
            raise ConfigError(
                f"{draft.where}.after = {name!r}: there is no such job in the batch.",
                f"There are: {', '.join(list(groups)[:20])}.",
            )
    for path, name, attribute in references(draft.settings):
        check_attribute(draft.where, path, name, attribute)
        if name not in drafts:
            several = groups.get(name)
            raise ConfigError(
                f"{draft.where}: {path} takes the output of {name!r}, "
                + (
                    f"which is {len(several)} jobs." if several else "which is no job of the batch."
                ),
                f"Name one of: {', '.join((several or list(drafts))[:20])}.",
            )
        if found.setdefault(name, WantedEnd.OK) is not WantedEnd.OK:
            raise ConfigError(
                f"{draft.where}.after.{name} = {found[name].value!r}: {path} takes its output, which it "
                "has only when it is completed.",
                f"Write {name}: ok.",
            )
    return found


def _in_order(drafts: dict[str, _Draft], source: str) -> list[str]:
    """Return the names of all jobs, each after those that it comes after, else as in the file."""
    sorter = TopologicalSorter({name: list(draft.after) for name, draft in drafts.items()})
    try:
        return list(sorter.static_order())
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        raise ConfigError(
            f"{source}: jobs.{circle[0]}.after: goes in a circle: {' after '.join(circle)}.",
            "Remove one of them.",
        ) from None


def _planned(draft: _Draft, settings: BatchSettings, known: dict[str, PlannedJob]) -> PlannedJob:
    """Return a job of the plan, given those that it comes after."""
    training = draft.settings.get("training")
    if isinstance(training, dict):
        _fill_model(training, known)
    job = validated(TrainingJob, draft.settings, draft.where)
    for path, name, _ in references(draft.settings):
        _check_kind(draft, path, known[name])
    given = draft.entry.retries
    retries = settings.retries
    if given is not None:
        value = Retries.from_short(given)
        retries = validated(Retries, value, f"{draft.where}.retries")
    by_provider = LOCAL if job.providers == ["local"] else CLOUD
    return PlannedJob(
        name=draft.name,
        job=job,
        after=draft.after,
        deployment=draft.entry.deployment or settings.deployment or by_provider,
        retries=retries if retries and retries.max else None,
    )


def _fill_model(training: dict[str, Any], known: dict[str, PlannedJob]) -> None:
    """Let a job that goes on with the adapter of another have the model that this one was trained on."""
    adapter = training.get("adapter")
    first = adapter[0] if isinstance(adapter, list) and adapter else adapter
    name = whole_reference(first)
    if name in known and "model" not in training:
        training["model"] = known[name].job.training.model


def _check_kind(draft: _Draft, path: str, source: PlannedJob) -> None:
    """Refuse to take a model from a job that leaves an adapter, and the like.

    Raises:
        ConfigError: naming the field and the remedy.
    """
    made, name = source.job.training, source.name
    if made.trainer in {"command", "kohya"}:
        return  # what it leaves is its own matter
    text = f"{draft.where}: {path} = ${{{name}.{OUTPUT}}}"
    is_adapter, field_name = bool(made.peft or made.adapters), path.partition("[")[0]
    if field_name == "training.adapter" and not is_adapter:
        raise ConfigError(
            f"{text}: job {name} trains all weights, and leaves a model.",
            f"Write training.model: ${{{name}.{OUTPUT}}} instead.",
        )
    if field_name == "training.model" and is_adapter and not made.merge:
        raise ConfigError(
            f"{text}: job {name} leaves an adapter, not a model.",
            f"Set training.merge: true in {name}, or write training.adapter: ${{{name}.{OUTPUT}}} instead.",
        )
    if field_name == "training.reward_model" and made.method != "reward":
        raise ConfigError(
            f"{text}: job {name} is trained by {made.method}, and gives no scores.",
            "Name a job of method reward.",
        )
    if field_name == "training.model" and METHODS[made.method].is_classifier:
        method = str((draft.settings.get("training") or {}).get("method", "sft"))
        if method in METHODS and not METHODS[method].is_classifier:
            raise ConfigError(
                f"{text}: job {name} is trained by {made.method}, and writes no text.",
                "Name the job that its model came from.",
            )
