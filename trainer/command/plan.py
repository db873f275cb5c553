"""What to run and how to understand it: `command` in job.json, its placeholders filled in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobDirectory

# {{name}} is a literal {name}, and ${name} is left to the shell.
_PLACEHOLDER = re.compile(r"\{\{([a-z_]+)\}\}|(?<!\$)\{([a-z_]+)\}")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One start of a foreign trainer."""

    trainer: str
    words: tuple[str, ...]
    env: Mapping[str, str]
    files: tuple[Path, ...]
    """What is copied into the job directory first."""
    patterns: tuple[re.Pattern[str], ...]
    metrics_file: str | None
    checkpoints: str | None
    """A glob, relative to the job directory."""
    marker: str | None
    still_seconds: float
    save_total_limit: int
    stop_signal: str
    output: str
    success: re.Pattern[str] | None
    first_step: int = 0
    """What is added to the steps that it prints: some count from zero after a resume."""


def make_plan(
    directory: JobDirectory,
    config: Mapping[str, Any],
    command: Mapping[str, Any],
    resume_from: Path | None,
) -> Plan:
    """Return what to run.

    Args:
        directory: where.
        config: `config` of job.json.
        command: as the job file's `command`, or as a preset translated the config.
        resume_from: the checkpoint to continue from, if any.

    Raises:
        ConfigError: there is nothing to run.
    """
    if not command.get("run"):
        raise ConfigError(f"{directory.job}: config.command.run is missing.")
    values = _values(directory, config, command, resume_from)
    success = command.get("success")
    return Plan(
        trainer=str(config.get("trainer", "command")),
        words=_words(command, values, resuming=resume_from is not None),
        env={name: _filled(text, values) for name, text in (command.get("env") or {}).items()},
        files=tuple(map(Path, command.get("files") or ())),
        patterns=tuple(map(re.compile, command.get("metrics") or ())),
        metrics_file=command.get("metrics_file"),
        checkpoints=command.get("checkpoints"),
        marker=command.get("checkpoint_marker"),
        still_seconds=float(command.get("checkpoint_still_seconds", 10.0)),
        save_total_limit=int(config.get("save_total_limit", 2)),
        stop_signal=str(command.get("stop_signal", "SIGTERM")),
        output=str(command.get("output", "out/final")),
        success=re.compile(success) if success else None,
        first_step=int(command.get("first_step", 0)),
    )


def fixed_part(pattern: str) -> str:
    """Return the folder in which what matches a glob is: its parts before the first wild one."""
    parts = PurePosixPath(pattern).parts
    wild = next((n for n, part in enumerate(parts) if _WILD.search(part)), len(parts) - 1)
    return str(PurePosixPath(*parts[:wild]))


def _values(
    directory: JobDirectory,
    config: Mapping[str, Any],
    command: Mapping[str, Any],
    resume_from: Path | None,
) -> dict[str, str]:
    root = directory.root.resolve()
    dataset = config.get("dataset")
    batch = int(config.get("per_device_train_batch_size", 8))
    accumulation = int(config.get("gradient_accumulation_steps", 1))
    divisor = directory.read_status().batch_divisor
    glob = command.get("checkpoints")
    return {
        "job_directory": str(root),
        "model": str(config.get("model", "")),
        "dataset": str(dataset.get("path", "") if isinstance(dataset, dict) else dataset or ""),
        "checkpoints": str(root / fixed_part(glob)) if glob else str(root),
        "output": str(root / command.get("output", "out/final")),
        "seed": str(config.get("seed", 42)),
        "resume_from": str(resume_from.resolve()) if resume_from else "",
        "per_device_train_batch_size": str(batch // divisor),
        "gradient_accumulation_steps": str(accumulation * divisor),
    }


def _words(
    command: Mapping[str, Any], values: Mapping[str, str], *, resuming: bool
) -> tuple[str, ...]:
    run = command["run"]
    # Only where there is a checkpoint: an empty --resume would be an error to most programs.
    further = list(command.get("resume") or ()) if resuming else []
    if isinstance(run, str):  # a value is one word of the line, whatever is in it
        quoted = {name: shlex.quote(value) for name, value in values.items()}
        added = [shlex.quote(_filled(word, values)) for word in further]
        return "sh", "-c", " ".join([_filled(run, quoted), *added])
    return tuple(_filled(word, values) for word in [*run, *further])


def _filled(text: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        if match[1]:
            return f"{{{match[1]}}}"
        # Unknown names are refused when the job is checked; in a preset they are literal text.
        return values.get(match[2], match[0])

    return _PLACEHOLDER.sub(value, text)
