"""The commands that look at a job file, or write one, and start nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import AsJson, JobFile, Prove, Providers
from gateway.exits import Exit, note, reported, say, say_json

file_commands = typer.Typer()


@file_commands.command()
def validate(
    file: JobFile,
    provider: Providers = None,
    json: AsJson = False,  # noqa: FBT002
    prove: Prove = False,  # noqa: FBT002
) -> None:
    """Check job, data, model and machine without training; estimate memory and time.

    Example: trainctl validate job.yaml
    """
    with reported():
        from gateway import checks

        results = checks.examine(file, note, providers=provider, prove=prove)
        passed = all(result.ok for result in results)
        if json:
            values = {r.name: {"ok": r.ok, "text": r.text, **r.facts} for r in results}
            say_json({"ok": passed, "checks": values})
        else:
            for result in results:
                say(f"{'ok   ' if result.ok else 'ERROR'}  {result.name:<9} {result.text}")
        raise typer.Exit(Exit.OK if passed else Exit.BAD_INPUT)


@file_commands.command()
def preview(
    file: JobFile,
    row: Annotated[int, typer.Option(min=1, help="Which row to begin with.")] = 1,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="How many rows.")] = 1,
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Show rows as the model will see them: what is learned, what is only seen, what is cut off.

    Example: trainctl preview job.yaml --row 3 --rows 2
    """
    with reported():
        from gateway.cli.preview import preview as show_rows

        show_rows(file, row, rows, as_json=json)


@file_commands.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="[FILE]", help="Where.")] = Path("job.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,  # noqa: FBT002
) -> None:
    """Write a commented job file to start from.

    Example: trainctl init my-job.yaml
    """
    with reported():
        from gateway.cli.job_template import write_template

        write_template(file, force=force)
        say(f"wrote {file}; change model and dataset, then: trainctl validate {file}")


@file_commands.command()
def show(file: JobFile, json: AsJson = False) -> None:  # noqa: FBT002
    """Show a job as it is understood: paths absolute, defaults filled in. Nothing is looked at.

    With --json it is what Prefect's own command line takes:
    prefect deployment run train/local --param job="$(trainctl show job.yaml --json)"

    Example: trainctl show job.yaml
    """
    with reported():
        from gateway.cli.showing import show_job

        show_job(file, as_json=json)
