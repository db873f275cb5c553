"""The commands of `trainctl` for rented machines: what they cost, and whether all is well."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.options import AsJson, JobFile, Providers
from gateway.exits import reported

renting_commands = typer.Typer()


@renting_commands.command()
def offers(
    file: JobFile,
    provider: Providers = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 20,
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Show what there is for hire for a job, first choice first, with its time and cost.

    Example: trainctl offers job.yaml --provider any
    """
    with reported():
        from gateway.cli import renting

        raise typer.Exit(renting.show_offers(file, provider, limit=limit, as_json=json))


@renting_commands.command()
def costs(
    by: Annotated[str, typer.Option(help="job, provider, project or day.")] = "job",
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Sum up what rented machines have cost, failed boots and idle time included.

    Example: trainctl costs --by provider
    """
    with reported():
        from gateway.cli import renting

        if by not in renting.COSTS:
            raise typer.BadParameter(f"--by = {by!r}: must be job, provider, project or day.")
        renting.show_costs(by, as_json=json)


@renting_commands.command()
def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,  # noqa: FBT002
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Put things right: revive jobs whose process is gone, end machines that no job owns.

    Only machines whose name bears this installation's mark are ever touched.

    Example: trainctl reconcile --dry-run
    """
    with reported():
        from gateway.cli import renting

        raise typer.Exit(renting.put_right(dry_run=dry_run, as_json=json))


@renting_commands.command()
def check(
    store: Annotated[
        str | None, typer.Option(help="Look at an object store instead, such as s3://BUCKET/PATH.")
    ] = None,
    set_rule: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--set-rule", help="Let the store remove uploads that nobody finished."),
    ] = False,
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Verify the credentials of all providers that are set up, or of a store. Nothing is hired.

    Example: trainctl check --store s3://models/team
    """
    with reported():
        if store is not None:
            from gateway.cli.stores import check_store

            raise typer.Exit(check_store(store, set_rule=set_rule, as_json=json))
        if set_rule:
            raise typer.BadParameter("--set-rule needs --store.")
        from gateway.cli import renting

        raise typer.Exit(renting.check_providers(as_json=json))
