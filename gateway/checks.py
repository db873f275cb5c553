"""Look at everything a job needs before anything starts. Nothing here imports torch."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flows.job_file import load_job
from flows.renting.estimating import can_estimate, estimated
from gateway.exits import note, sentence
from gateway.foreign_checks import check_foreign
from gateway.view import duration
from trainer.config import FOREIGN_DATA, TrainingJob
from trainer.config.code_references import check_code, code_hashes, references
from trainer.config.extras import check_extras, check_trainer, extras_of
from trainer.config.model_files import check_model_files, looks_like_path
from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.data import DatasetReport, inspect_dataset
from trainer.data.reading import names_hub_dataset
from trainer.results.gguf import check_export
from trainer.rewards.scorer import check_scorer


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

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
    for_worker: bool = False,
) -> TrainingJob:
    """Return the job in a file after looking at what it names on this computer.

    Args:
        path: the job file.
        providers: names separated by commas, instead of those in the file.
        keep: how long to keep a rented machine, such as 10m, instead of what the file says.
        max_cost: USD, instead of what the file says.
        for_worker: a worker trains it, perhaps on another computer: what is not here is noted and
            left to it, what is here is looked at all the same.

    Raises:
        ConfigError: the file, an option, the dataset or the model is wrong.
    """
    job = load_job(path)
    if max_cost is not None:
        job = job.model_copy(
            update={"limits": job.limits.model_copy(update={"max_cost": max_cost})}
        )
    if keep is not None:
        job = job.model_copy(update={"keep_minutes": _minutes(keep)})
    if providers:
        job = job.model_copy(update={"provider": _names(providers)})
    away = dict(not_here(job)) if for_worker else {}
    for field, name in away.items():
        note(f"{field}: {name} is not on this computer; the worker must have it")
    if not any(field.startswith("training.command") for field in away):
        check_foreign(job)
    if not any(field.startswith("training.dataset") for field in away):
        check_dataset(job)
    if "training.model" not in away:
        check_model(job)
    if not for_worker:
        check_packages(job)
    check_own_parts(job, elsewhere=away)
    _check_provider(job)
    return job


def not_here(job: TrainingJob) -> Iterator[tuple[str, str]]:
    """Yield field and name of every file or folder that a job names and that is not here."""
    config = job.training
    named = [("training.model", config.model)] if config.trainer != "command" else []
    if config.reward_model:
        named.append(("training.reward_model", config.reward_model))
    yield from ((f, name) for f, name in named if looks_like_path(name) and not _is_here(name))
    for field in ("path", "eval_path"):
        name = getattr(config.dataset, field)
        if name and not names_hub_dataset(name) and not _is_here(name):
            yield f"training.dataset.{field}", name
    for field, text in references(config):
        if not _is_here(text.rpartition(":")[0]):
            yield f"training.{field} {text}", text
    for name in config.command.files if config.command else []:
        if not _is_here(name):
            yield f"training.command.files {name}", name


def _is_here(name: str) -> bool:
    return Path(name).expanduser().exists()


def _minutes(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip().lower())
    if match is None:
        raise ConfigError(f"--keep = {text!r}: is no time.", "Write it as 90s, 10m or 2h.")
    return float(match[1]) * {"s": 1 / 60, "m": 1, "": 1, "h": 60, "d": 1440}[match[2]]


def _names(text: str) -> str | list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    return names[0] if len(names) == 1 else names


def check_dataset(job: TrainingJob) -> DatasetReport | None:
    """Read all rows that are on this computer; None when the Hub, a command or `formatting` has them.

    Raises:
        DataError: there is nothing, or a row cannot be used.
    """
    dataset = job.training.dataset
    if job.training.trainer in FOREIGN_DATA:
        return None
    sources = [path for path in (dataset.path, dataset.eval_path) if path]
    if job.training.formatting:
        return None  # nothing of the user's runs here, and without it these are no rows yet
    if any(not Path(path).expanduser().exists() and names_hub_dataset(path) for path in sources):
        return None
    return inspect_dataset(job.training)


def check_packages(job: TrainingJob) -> None:
    """Look for what the flow will look for when it trains here; elsewhere it is installed.

    Raises:
        DependencyError: naming the field that wants one, and the command that installs it.
    """
    if job.providers == ["local"]:
        if job.training.trainer == "builtin":
            check_trainer()
        check_extras(job.training)


def check_own_parts(job: TrainingJob, *, elsewhere: Mapping[str, str] | None = None) -> None:
    """Look at the user's own code, without running it, and at the model that gives rewards.

    Raises:
        ConfigError: a file is missing, is no Python, or does not have the name.
    """
    away = elsewhere or {}
    check_code(job.training, elsewhere=set(away.values()))
    if job.training.reward_model and "training.reward_model" not in away:
        check_scorer(job.training.reward_model)


def check_model(job: TrainingJob) -> None:
    """Look for the model's files, unless it is a command's.

    Raises:
        ModelNotFound: it is a path, and no model is there.
        ConfigError: it cannot be exported as the job asks.
    """
    if job.training.trainer != "command":
        check_model_files(job.training.model)
        check_export(job.training)


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
    theirs = job.training.trainer in FOREIGN_DATA
    kind = f"trainer {job.training.trainer}" if theirs else f"method {job.training.method}"
    checks = [Check("job", ok=True, text=f"{job.name}, {kind}", facts={})]
    if job.training.trainer != "builtin":
        checks.append(_attempt("trainer", lambda: (check_foreign(job), {})))
    say("reading the dataset")
    checks.append(_attempt("dataset", lambda: _dataset(job)))
    checks.append(_attempt("model", lambda: _model(job)))
    if extras_of(job.training) or _is_trained_here(job):
        checks.append(_attempt("packages", lambda: _packages(job)))
    if job.training.reward_model or any(references(job.training)):
        checks.append(_attempt("code", lambda: _own_parts(job)))
    say("asking the provider")
    checks.append(_attempt("machine", lambda: _machine(job)))
    if not all(check.ok for check in checks):
        return checks
    if not can_estimate(job):
        text = f"unknown: {_why_no_estimate(job)}"
        return [*checks, Check("estimate", ok=True, text=text, facts={})]
    say("estimating memory and time")
    return [*checks, _attempt("estimate", lambda: _estimate(job))]


def _why_no_estimate(job: TrainingJob) -> str:
    if job.training.trainer != "builtin":
        return "the trainer is not ours"
    if any(references(job.training)):
        return "code of yours takes part, and is not run here"
    return "torch is not installed here"


def _attempt(name: str, look: Callable[[], tuple[str, dict[str, Any]]]) -> Check:
    try:
        text, facts = look()
    except OrchestratorError as error:
        return Check(name, ok=False, text=sentence(error), facts=error.to_dict())
    return Check(name, ok=True, text=text, facts=facts)


def _dataset(job: TrainingJob) -> tuple[str, dict[str, Any]]:
    report = check_dataset(job)
    if job.training.trainer in FOREIGN_DATA:
        return f"{job.training.dataset.path}; how it is laid out is the command's matter", {}
    if report is None:
        place = "is formatted by the trainer" if job.training.formatting else "is on the Hub"
        return f"{job.training.dataset.path} {place}; its rows are checked when it starts", {}
    text = (
        f"{report.rows:,} rows, format {report.format}, {report.bytes / 1e6:.2f} MB, "
        f"{report.mean_characters:.0f} characters a row, no bad rows"
    )
    return text, asdict(report)


def _is_trained_here(job: TrainingJob) -> bool:
    return job.training.trainer == "builtin" and job.providers == ["local"]


def _packages(job: TrainingJob) -> tuple[str, dict[str, Any]]:
    check_packages(job)
    extras = extras_of(job.training)
    if not _is_trained_here(job):
        where = "here" if job.providers == ["local"] else "installed on the machine"
        return f"{', '.join(extras)}, {where}", {}
    found = check_trainer()
    names = [*(f"{name} {found[name]}" for name in ("torch", "transformers", "trl")), *extras]
    return f"{', '.join(names)}, here", {"versions": found}


def _own_parts(job: TrainingJob) -> tuple[str, dict[str, Any]]:
    check_own_parts(job)
    hashes = code_hashes(job.training)
    parts = [*hashes, *([job.training.reward_model] if job.training.reward_model else [])]
    return f"{', '.join(parts)}; read, not run", {"sha256": hashes}


def _model(job: TrainingJob) -> tuple[str, dict[str, Any]]:
    model = job.training.model
    if job.training.trainer in FOREIGN_DATA:
        return f"{model}; the command loads it", {}
    check_model(job)
    folder = Path(model).expanduser()
    if not folder.exists():
        return f"{model} on the Hub; it is fetched when the job starts", {"on_hub": True}
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    weights = f"{size / 1e6:.1f} MB of weights" if size else "no weights"
    return f"{model}, {weights}", {"path": str(folder), "weight_bytes": size}


def _machine(job: TrainingJob) -> tuple[str, dict[str, Any]]:
    from flows.renting.market import market

    found = asyncio.run(market(job))
    if not found.choices:
        raise found.why_empty()
    first = found.choices[0].offer
    several = f"{first.gpu_count} × " if first.gpu_count > 1 else ""
    gpu = "CPU, no GPU"
    if first.gpu_count:
        gpu = f"{several}{first.gpu_type}, {first.vram_gb:.0f} GiB{' each' if several else ''}"
    ram = f", {first.ram_gb:.0f} GiB of memory" if first.ram_gb else ""
    disk = f", {first.disk_gb:.0f} GiB of disk free" if first.disk_gb else ""
    price = f", {first.price_per_hour:.4g} USD/h" if first.price_per_hour else ""
    text = f"{found.choices[0].provider.label}: {gpu}{ram}{disk}{price}"
    return text, {"offers": [choice.offer.to_dict() for choice in found.choices]}


def _check_provider(job: TrainingJob) -> None:
    from flows.renting.market import ANY, refuse_apart

    for label in job.providers:
        if label != ANY:
            refuse_apart(job, label)


def _estimate(job: TrainingJob) -> tuple[str, dict[str, Any]]:
    facts = estimated(job)
    return _in_words(facts), facts


def _in_words(facts: dict[str, Any]) -> str:
    memory = facts["memory_gb"]
    time = facts["seconds"]
    # Loading, evaluations and checkpoints come on top.
    took = f"about {duration(time)}" if time is not None else f"unknown ({facts['time_note']})"
    fits = "" if facts["fits"] else f", MORE than the {facts['available_gb']:.1f} GB there are"
    saved = " with gradient checkpointing" if facts["gradient_checkpointing"] else ""
    return (
        f"{facts['trainable_parameters']:,} of {facts['parameters']:,} parameters trained, "
        f"{facts['tokens']:,} tokens, {facts['steps']:,} steps of {facts['batch']}; "
        f"{facts['memory_kind']} peak {memory['peak']:.2f} GB{fits}{saved}; training {took}"
    )
