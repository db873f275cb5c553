"""Read the file of a batch: what all jobs share, and the jobs one by one.

```yaml
name: nightly
defaults: {provider: local, training: {model: tiny-llama}}   # parts of a job, for all of them
max_concurrent: 2                                            # of them at once
on_failure: continue                                         # or stop: start nothing more
retries: {max: 2, backoff_seconds: 60}                       # of each job
jobs:
  cpt: {file: cpt.yaml}                                      # a job file, perhaps with changes
  sft: {after: cpt, training: {model: "${cpt.output}", …}}   # or the job itself
```
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from flows.batches.other_names import names_of_ids, with_our_names
from flows.batches.retries import Retries
from flows.job_file import STANDARD_INPUT, as_job, parse_job, source_of, with_absolute_paths
from flows.scheduling.dependencies import WantedEnd
from trainer.config import TrainingJob
from trainer.config.explain import validated
from trainer.config.settings import JobName, Settings
from trainer.contract.errors import ConfigError

OF_ENTRIES = ("file", "after", "matrix", "retries", "deployment")
"""What a job of a batch has beside the fields of a job."""
JOBS, DEFAULTS = "jobs", "defaults"


class BatchSettings(Settings):
    """What a batch says of all its jobs."""

    name: JobName
    """By which it is listed, paused and cancelled; the same name is the same batch."""
    max_concurrent: int | None = Field(default=None, ge=1)
    """How many of its jobs may train at once. null: as many as the pool has room for."""
    on_failure: Literal["continue", "stop"] = "continue"
    """What becomes of the other jobs when one has failed. continue: those that do not come after it go
    on; stop: none starts any more. What trains goes on to its end in both cases."""
    retries: Retries | None = None
    """How often a job that failed is tried again, where it says nothing itself."""
    deployment: str | None = None
    """FLOW/NAME of the deployment. null: train/local for jobs of this computer's GPUs, else train/cloud."""

    @field_validator("retries", mode="before")
    @classmethod
    def _number_of_retries(cls, value: Any) -> Any:
        return Retries.from_short(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEntry:
    """A job of a batch as it stands in the file, with defaults and file put in, before its matrix."""

    name: str
    settings: dict[str, Any]
    """The fields of a job; neither validated yet nor, of the batch's own file, with absolute paths."""
    folder: Path
    """Where its relative paths start."""
    after: dict[str, WantedEnd] = field(default_factory=dict)
    matrix: Any = None
    retries: Any = None
    deployment: Any = None


def read_batch(path: Path, name: str | None = None) -> tuple[BatchSettings, list[BatchEntry]]:
    """Return what a file says of a batch, and its jobs; relative paths start at the file's folder.

    Args:
        path: the file, YAML or TOML; - reads it from standard input.
        name: of the batch, instead of the one in the file.

    Raises:
        ConfigError: naming the file and the line, or the field, the value and the remedy.
    """
    source = source_of(path)
    value = parse_job(path)
    if not isinstance(value, dict) or JOBS not in value:
        raise ConfigError(
            f"{source}: has no {JOBS}, which name the jobs of a batch.",
            "Write jobs: {NAME: {file: job.yaml}}; a single job is handed over by: trainctl submit.",
        )
    of_all = {key: inner for key, inner in value.items() if key not in {JOBS, DEFAULTS}}
    if path != STANDARD_INPUT:
        of_all.setdefault("name", path.stem)
    of_all |= {"name": name} if name else {}
    settings = validated(BatchSettings, of_all, source, "Correct the batch file.")
    folder = Path.cwd() if path == STANDARD_INPUT else path.expanduser().absolute().parent
    defaults = _mapping(value.get(DEFAULTS) or {}, f"{source}: {DEFAULTS}")
    entries = _named(value[JOBS], source)
    ids = names_of_ids(entries)
    entries = [(name, with_our_names(given, f"{source}: jobs.{name}")) for name, given in entries]
    found = [_entry(name, given, defaults, folder, source) for name, given in entries]
    return settings, [
        dataclasses.replace(one, after={ids.get(name, name): e for name, e in one.after.items()})
        for one in found
    ]


def _named(jobs: Any, source: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the jobs with their names: of a mapping of names, or of a list."""
    if isinstance(jobs, dict):
        pairs = list(jobs.items())
    elif isinstance(jobs, list):
        pairs = [(_own_name(given, f"{source}: jobs[{n}]"), given) for n, given in enumerate(jobs)]
    else:
        raise ConfigError(
            f"{source}: jobs = {jobs!r}: must be a mapping of names to jobs, or a list of jobs.",
            "Write jobs: {NAME: {file: job.yaml}}.",
        )
    if not pairs:
        raise ConfigError(f"{source}: jobs is empty.", "Name at least one job.")
    return [
        (str(name), _mapping({} if given is None else given, f"{source}: jobs.{name}"))
        for name, given in pairs
    ]


def _own_name(given: Any, source: str) -> str:
    name = given.get("name") if isinstance(given, dict) else None
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{source}: has no name.", "Give each job of the list a name.")
    return name


def _mapping(value: Any, source: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(
            f"{source} = {value!r}: must be a mapping of field names to values.",
            f"There are: {', '.join([*OF_ENTRIES, *TrainingJob.model_fields])}.",
        )
    return value


def _entry(
    name: str, given: dict[str, Any], defaults: dict[str, Any], folder: Path, source: str
) -> BatchEntry:
    where = f"{source}: jobs.{name}"
    of_jobs = {key: inner for key, inner in defaults.items() if key not in OF_ENTRIES}
    settings = merged(of_jobs, _of_file(given, folder, where))
    settings = merged(settings, {k: v for k, v in given.items() if k not in OF_ENTRIES})
    return BatchEntry(
        name=name,
        settings=settings | {"name": name},
        folder=folder,
        after=after(given.get("after", defaults.get("after")), where),
        **{key: given.get(key, defaults.get(key)) for key in ("matrix", "retries", "deployment")},
    )


def _of_file(given: dict[str, Any], folder: Path, where: str) -> dict[str, Any]:
    file = given.get("file")
    if file is None:
        return {}
    if not isinstance(file, str) or not file:
        raise ConfigError(f"{where}.file = {file!r}: is not a path.", "Name a job file.")
    path = Path(file).expanduser()
    path = path if path.is_absolute() else folder / path
    value = parse_job(path)
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path}: holds no job.", "Start from the file that 'trainctl init' writes."
        )
    return with_absolute_paths(as_job(value, path), path.parent)


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return settings with those of `over` put on top, mappings field by field."""
    found = dict(base)
    for name, value in over.items():
        below = found.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            value = merged(below, value)
        found[name] = value
    return found


def after(value: Any, where: str) -> dict[str, WantedEnd]:
    """Return which jobs a job comes after, and how they have to end.

    Args:
        value: a name, a list of names, or a mapping of names to ok, any or failed.
        where: for messages.

    Raises:
        ConfigError: it is none of these.
    """
    if value is None:
        return {}
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        value = dict.fromkeys(value, "ok")
    if not isinstance(value, dict):
        raise ConfigError(
            f"{where}.after = {value!r}: must name jobs of the batch.",
            "Write after: NAME, after: [NAME, NAME], or after: {NAME: ok, NAME: any}.",
        )
    for name, ending in value.items():
        if ending not in set(WantedEnd):
            raise ConfigError(
                f"{where}.after.{name} = {ending!r}: must be one of {', '.join(WantedEnd)}.",
                "ok: when it is completed; any: when it has ended; failed: when it has failed.",
            )
    return {str(name): WantedEnd(ending) for name, ending in value.items()}
