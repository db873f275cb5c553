"""`trainctl preview`: rows as the model will see them, in colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from flows.job_file import load_job
from flows.trainer_process import ask_trainer
from gateway.exits import note, say_json
from trainer.config.extras import check_trainer
from trainer.contract.errors import ConfigError

STYLES = {"learned": "bold green", "seen": "dim", "cut": "red strike"}
"""On a terminal."""
MARKS = {"learned": ("«", "»"), "seen": ("", ""), "cut": ("✂", "✂")}
"""Where there are no colours, and around what is learned in any case."""


def preview(file: Path, first: int, count: int, *, as_json: bool) -> None:
    """Print some rows of a job's data, token by token as the trainer makes them.

    Raises:
        OrchestratorError: the job or a row is wrong, or the trainer's packages are not here.
    """
    job = load_job(file)
    if job.training.trainer != "builtin":
        raise ConfigError(
            f"training.trainer: only {job.training.trainer} knows what it makes of the rows.",
            "Leave trainer out to train with ours, or look at what the other one prints.",
        )
    check_trainer()
    note("reading and tokenising the rows")
    rows = ask_trainer("preview", job, str(first), str(count))["rows"]
    if as_json:
        say_json({"rows": rows})
        return
    if not rows:
        raise ConfigError(f"--row {first}: there are fewer rows.", "Name one that is there.")
    # Nothing wraps within a word: what is shown shall be what is there.
    console = Console(highlight=False, soft_wrap=True)
    console.print(_legend())
    for number, row in enumerate(rows, first):
        console.print(_row(number, row))


def _legend() -> Text:
    legend = Text("legend: ")
    for kind in STYLES:
        legend.append(_marked(kind, kind), style=STYLES[kind])
        legend.append("  ")
    return legend.append("⟨special token⟩")


def _row(number: int, row: dict[str, Any]) -> Text:
    cut = f", {row['cut']} cut off at max_length" if row["cut"] else ""
    shown = Text(f"\nrow {number}, {row['place']}: ", style="bold")
    shown.append(f"{row['learned']} tokens learned, {row['seen']} seen{cut}\n", style="bold")
    if row["dropped"]:
        shown.append(f"not learned from: {row['dropped']}\n", style="bold red")
    for name, parts in row["texts"].items():
        if name:
            shown.append(f"{name}:\n", style="bold cyan")
        for kind, text in _runs(parts):
            shown.append(_marked(kind, text), style=STYLES[kind])
        shown.append("\n")
    return shown


def _runs(parts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return neighbours of one kind as one, with special tokens in brackets."""
    runs: list[tuple[str, str]] = []
    for part in parts:
        # A line break is a token too; as one alone it would not be seen.
        text = part["text"].replace("\n", "↵\n")
        text = f"⟨{text}⟩" if part["is_special"] else text
        if runs and runs[-1][0] == part["kind"]:
            runs[-1] = (part["kind"], runs[-1][1] + text)
        else:
            runs.append((part["kind"], text))
    return runs


def _marked(kind: str, text: str) -> str:
    begin, end = MARKS[kind]
    return f"{begin}{text}{end}"
