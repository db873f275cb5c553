"""Training by another program than ours, which speaks through what it prints and writes."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from trainer.config.settings import Settings, Text
from trainer.contract.metrics import NUMBERS

TrainerName = Literal[
    "builtin", "command", "axolotl", "kohya", "llama-factory", "torchtune", "unsloth"
]
FOREIGN_DATA = frozenset({"command", "kohya"})
"""The trainers whose model and dataset are laid out as they alone know."""

NONE = "none"
"""The model or dataset of a command that names none."""
PLACEHOLDERS = (
    *("job_directory", "model", "dataset", "checkpoints", "output", "seed", "resume_from"),
    *("per_device_train_batch_size", "gradient_accumulation_steps"),
)
"""What stands for a value in `run`, `resume` and `env`, in braces."""
PLACEHOLDER = re.compile(r"(?<![${])\{([a-z_]+)\}(?!\})")
OURS = ("cache", "checkpoints", "output", "reports")
"""Folders of the job directory that no command may take for its own."""
_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL", re.IGNORECASE)


def _known_placeholders(text: str) -> str:
    for name in PLACEHOLDER.findall(text):
        # A typing error would otherwise reach the command as a literal {modle}.
        if name not in PLACEHOLDERS:
            raise ValueError(
                f"{{{name}}} is not a placeholder; there are: {', '.join(PLACEHOLDERS)} "
                f"(write {{{{{name}}}}} for the word in braces itself)"
            )
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return text


def _metric_pattern(text: str) -> str:
    groups = re.compile(_pattern(text)).groupindex
    if not groups:
        raise ValueError("has no named group such as (?P<train_loss>...)")
    for name in groups:
        if name not in NUMBERS:
            raise ValueError(f"{name!r} is not a metric; there are: {', '.join(NUMBERS)}")
    return text


def _below(path: str) -> str:
    """Refuse a path that leaves the job directory."""
    # The job directory moves from machine to machine, and only what is below it goes along.
    if path.startswith(("/", "~")) or ".." in path.split("/") or path.strip("./") == "":
        raise ValueError("must be a path below the job directory")
    if PurePosixPath(path).parts[0] in OURS:
        raise ValueError(f"{path.split('/')[0]} belongs to the product; write to another place")
    return path


def _no_secrets(env: dict[str, str]) -> dict[str, str]:
    for name in env:
        # Job files are kept, shown in the UI and copied to machines of others.
        if _SECRET.search(name):
            raise ValueError(
                f"{name} looks like a secret, which a job file must not hold; set it in your own "
                "environment (HF_TOKEN and WANDB_API_KEY go along), or on the machine"
            )
    return env


Word = Annotated[str, Field(max_length=65536), AfterValidator(_known_placeholders)]
Below = Annotated[Text, AfterValidator(_below)]
Pattern = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_pattern)]
MetricPattern = Annotated[
    str, Field(min_length=1, max_length=4096), AfterValidator(_metric_pattern)
]


class CommandConfig(Settings):
    """A training command, run in the job directory, and how to understand it."""

    run: Word | list[Word] = Field(default_factory=list)
    """The program and its arguments as a list, or one line for the shell. It starts in the job
    directory; the trainer's own `python` comes first on its PATH."""
    files: list[Text] = Field(default_factory=list)
    """Files and folders to copy into the job directory, such as [my_train.py]."""
    metrics: list[MetricPattern] = Field(default_factory=list)
    """Regular expressions with named groups, looked for in every line that it prints."""
    metrics_file: Below | None = None
    """A file that it appends lines to, looked through as well as what it prints. null: none."""
    checkpoints: Below | None = None
    """Its checkpoint folders, such as out/checkpoint-*. null: it writes none."""
    checkpoint_marker: Text | None = None
    """A file that it writes last into a checkpoint. null: none, so wait until nothing changes."""
    checkpoint_still_seconds: float = Field(default=10.0, ge=0)
    """Without a marker: a checkpoint is complete when nothing in it has changed for so long."""
    resume: list[Word] = Field(default_factory=list)
    """Further arguments where there is a checkpoint, such as [--resume, "{resume_from}"]."""
    stop_signal: Literal["SIGINT", "SIGTERM", "SIGUSR2"] = "SIGTERM"
    """What tells it to save and end, when the job is paused or stopped."""
    output: Below = "out/final"
    """The file or folder that becomes the artifact."""
    success: Pattern | None = None
    """A regular expression that must have been printed; without it exit code 0 is a failure.
    null: exit code 0 is enough."""
    env: Annotated[dict[Text, Word], AfterValidator(_no_secrets)] = Field(default_factory=dict)
    """Environment variables. Secrets have no place here."""


def without_model(value: Any) -> Any:
    """Fill in model and dataset for a command that names none; other trainers must name them."""
    if isinstance(value, dict) and value.get("trainer") == "command":
        # Placed first, so that names given in the job win.
        return {"model": NONE, "dataset": NONE, **value}
    return value
