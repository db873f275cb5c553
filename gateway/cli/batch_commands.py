"""`trainctl batch` and `trainctl batches …`: jobs that belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.completion import batch_names
from gateway.cli.options import AsJson, Follow, Wait, one_of
from gateway.exits import reported

BatchName = Annotated[
    str, typer.Argument(metavar="NAME", help="The batch's name.", autocompletion=batch_names)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, and print the jobs.")]
OnlyFailed = Annotated[
    bool, typer.Option("--failed", help="Only what failed, and not what was stopped.")
]

batch_commands = typer.Typer()
batches = typer.Typer(
    help="List batches, and look at, cancel, pause, resume or retry one as a whole.",
    invoke_without_command=True,
)


@batch_commands.command()
def batch(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The batch; - reads it from standard input."),
    ] = None,
    batch_config: Annotated[
        Path | None, typer.Option("--batch-config", help="The same, as an option.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The batch's name, instead of the one in the file.")
    ] = None,
    dry_run: DryRun = False,  # noqa: FBT002
    follow: Follow = False,  # noqa: FBT002
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Hand over jobs that belong together: what comes after what, and what takes whose output.

    The same file again submits only what is not there yet.

    Example: trainctl batch examples/batch.yaml --follow
    """
    with reported():
        from gateway.cli import batching

        path = one_of("FILE", file, "--batch-config", batch_config)
        code = batching.submit(path, name, dry_run=dry_run, follow=follow, as_json=json)
        raise typer.Exit(code)


@batches.callback()
def list_batches(context: typer.Context, json: AsJson = False) -> None:  # noqa: FBT002
    """List batches, the newest first.

    Example: trainctl batches
    """
    if context.invoked_subcommand is None:
        with reported():
            from gateway.cli import batching

            batching.list_batches(as_json=json)


@batches.command()
def show(
    name: BatchName,
    to: Annotated[Path | None, typer.Option(help="Write the page to this file, too.")] = None,
    follow: Follow = False,  # noqa: FBT002
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Show the jobs of a batch, and make its page: a table, and when each waited and ran.

    Example: trainctl batches show nightly --to nightly.html
    """
    with reported():
        from gateway.cli import batching

        raise typer.Exit(batching.show(name, to, follow=follow, as_json=json))


@batches.command()
def cancel(name: BatchName, wait: Wait = True) -> None:  # noqa: FBT002
    """Stop a batch: what trains saves a checkpoint first.

    Example: trainctl batches cancel nightly
    """
    with reported():
        from gateway.cli import batching

        raise typer.Exit(batching.cancel(name, wait=wait))


@batches.command()
def pause(name: BatchName, wait: Wait = True) -> None:  # noqa: FBT002
    """Pause a batch: what trains saves a checkpoint, and what waits leaves the queue.

    Example: trainctl batches pause nightly
    """
    with reported():
        from gateway.cli import batching

        raise typer.Exit(batching.pause(name, wait=wait))


@batches.command()
def resume(name: BatchName) -> None:
    """Go on with a paused batch.

    Example: trainctl batches resume nightly
    """
    with reported():
        from gateway.cli import batching

        raise typer.Exit(batching.resume(name))


@batches.command()
def retry(
    name: BatchName,
    failed: OnlyFailed = False,  # noqa: FBT002
) -> None:
    """Execute again what failed or was stopped, and what could not start because of it.

    Example: trainctl batches retry nightly --failed
    """
    with reported():
        from gateway.cli import batching

        raise typer.Exit(batching.retry(name, failed=failed))
