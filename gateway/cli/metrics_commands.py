"""`trainctl metrics`: what trainings measured, out of the store and into it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import JobId
from gateway.exits import reported

metrics_commands = typer.Typer(help="What trainings measured: export, import, build anew, remove.")


@metrics_commands.command(name="export")
def export_metrics(
    job: JobId,
    to: Annotated[Path, typer.Option(help="A file that ends in .parquet or .csv.")],
) -> None:
    """Write a job's metrics to a file: a row for each step, a column for each metric.

    Example: trainctl metrics export 1a2b --to metrics.parquet
    """
    with reported():
        from gateway.cli import measurements

        measurements.export(job, to)


@metrics_commands.command(name="import")
def import_metrics(
    folder: Annotated[Path, typer.Argument(help="A folder with event files of TensorBoard.")],
    name: Annotated[
        str | None, typer.Option(help="What to call the job. Default: as the folder is called.")
    ] = None,
) -> None:
    """Take up TensorBoard's event files: each folder that holds some is a job.

    Example: trainctl metrics import runs/ --name my-old-run
    """
    with reported():
        from gateway.cli import measurements

        measurements.take_up(folder, name)


@metrics_commands.command(name="rebuild")
def rebuild_metrics(
    jobs: Annotated[list[str], typer.Argument(help="Ids, parts of ids, or names of jobs.")],
) -> None:
    """Build the stored metrics of jobs anew from their files on this computer.

    Example: trainctl metrics rebuild 1a2b
    """
    with reported():
        from gateway.cli import measurements

        measurements.rebuild(jobs)


@metrics_commands.command(name="prune")
def prune_metrics(
    days: Annotated[float, typer.Option(min=0.001, help="Of jobs that got none for so long.")],
) -> None:
    """Remove the stored metrics of old jobs; their files stay.

    Example: trainctl metrics prune --days 30
    """
    with reported():
        from gateway.cli import measurements

        measurements.prune(days)
