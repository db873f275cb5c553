"""`trainctl notify`: whether those who are to be told of jobs can be reached."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.exits import reported

notify = typer.Typer(help="Those who are told what becomes of jobs; see docs/notifications.md.")


@notify.callback()
def notify_group() -> None:
    """Keep `test` a command of its own, however few there are."""


@notify.command(name="test")
def notify_test(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A job file, whose receivers are told too."),
    ] = None,
) -> None:
    """Send a message to everybody who is told of your jobs, and say what came of each.

    Example: trainctl notify test job.yaml
    """
    with reported():
        from gateway.cli import notifying

        raise typer.Exit(notifying.test_receivers(file))
