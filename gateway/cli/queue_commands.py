"""The commands of `trainctl` for the queue: who waits, why, and how a pool decides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deployments.pools import LOCAL_POOL
from gateway.cli.options import AsJson, JobId
from gateway.exits import reported

queue_commands = typer.Typer()
pools = typer.Typer(help="How a pool decides which job goes first, and what its jobs may use.")
Explain = Annotated[bool, typer.Option("--explain", help="Show the numbers behind each place.")]
Pool = Annotated[str, typer.Argument(metavar="POOL", help="The name of the work pool.")]


@queue_commands.command()
def queue(
    pool: Annotated[str, typer.Option(help="The work pool.")] = LOCAL_POOL,
    explain: Explain = False,  # noqa: FBT002
    limit: Annotated[int, typer.Option(min=1, help="How many that wait at most.")] = 50,
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Show who runs and who waits in a pool, in the order in which they start, and why they wait.

    Example: trainctl queue --explain
    """
    with reported():
        from gateway.cli import queueing

        queueing.show_queue(pool, limit, explain=explain, as_json=json)


@queue_commands.command()
def why(job: JobId, json: AsJson = False) -> None:  # noqa: FBT002
    """Say why a job waits and about when it starts: in one sentence, and in numbers.

    Example: trainctl why 1a2b
    """
    with reported():
        from gateway.cli import queueing

        queueing.why(job, as_json=json)


@pools.command(name="show")
def show_pool(pool: Pool = LOCAL_POOL, json: AsJson = False) -> None:  # noqa: FBT002
    """Show the settings of a pool; those that were set are marked.

    Example: trainctl pool show local-gpu
    """
    with reported():
        from gateway.cli import queueing

        queueing.show_pool(pool, as_json=json)


@pools.command(name="set")
def set_pool(
    pool: Pool,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...", help="Settings by name; KEY= alone is the default again."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file with sections scheduler, resources, monitoring, evaluation."
        ),
    ] = None,
) -> None:
    """Change settings of a pool; its worker goes by them within seconds.

    Example: trainctl pool set local-gpu strategy=fair_share weights.ada=2 quotas.vision.gpus=4
    """
    with reported():
        from gateway.cli import queueing

        queueing.set_pool(pool, settings or [], config)
