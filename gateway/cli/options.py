"""The arguments and options that several commands of `trainctl` share, with their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

import typer

from gateway.cli.completion import job_ids
from trainer.contract.errors import ConfigError

T = TypeVar("T")

JobFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="The job file; - reads it from standard input."),
]
JobId = Annotated[
    str,
    typer.Argument(
        metavar="ID",
        help="A job's id, 4 or more characters of its beginning or end, or its name.",
        autocompletion=job_ids,
    ),
]
MaybeJobFile = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="The job file; - reads it from standard input."),
]
MaybeJobId = Annotated[
    str | None,
    typer.Argument(
        metavar="ID",
        help="A job's id, 4 or more characters of its beginning or end, or its name.",
        autocompletion=job_ids,
    ),
]
JobIdOption = Annotated[str | None, typer.Option("--job-id", help="The same, as an option.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job is at rest.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the job is at rest.")]
ShowLogs = Annotated[bool, typer.Option("--logs", "-l", help="Print the training log too.")]
Detach = Annotated[bool, typer.Option("--detach", help="Run in the background at once.")]
Providers = Annotated[
    str | None,
    typer.Option(
        help="Where: local, ssh, aws, azure, gcp, runpod, lambda, sagemaker, vast; several in order, "
        "with commas; or any."
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(help="Keep a rented machine for the next job, for a time such as 10m or 2h."),
]
MaxCost = Annotated[
    float | None, typer.Option(min=0.001, help="USD at most; then it saves and stops.")
]
Automations = Annotated[
    list[Path] | None,
    typer.Option(help="Bring the automations of this file or folder there too."),
]
Prove = Annotated[
    bool,
    typer.Option("--prove", help="Load the model too, and prove how its rows are laid out."),
]
Nodes = Annotated[int | None, typer.Option(min=1, help="Go on by so many machines from here on.")]
Processes = Annotated[
    int | None,
    typer.Option(
        min=1, help="Go on by so many GPUs of each machine, or processes where it trains without."
    ),
]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="Go on even though data, template, code or base model have changed since the pause.",
    ),
]


def one_of(name: str, value: T | None, option: str, given: T | None) -> T:
    """Return what was given as an argument or as an option.

    Raises:
        ConfigError: neither was, or both.
    """
    if (value is None) == (given is None):
        what = "is missing" if value is None else f"and {option} are both given"
        raise ConfigError(f"{name} {what}.", f"Give it once, as {name} or as {option} {name}.")
    found = given if value is None else value
    assert found is not None  # noqa: S101 - for the type checker
    return found
