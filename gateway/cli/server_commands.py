"""`trainctl server`: the Prefect server that is started where none is configured."""

from __future__ import annotations

import typer

from gateway.cli.options import AsJson
from gateway.exits import Exit, note, reported, say, say_json

servers = typer.Typer(help="The Prefect server that trainctl starts where none is configured.")


@servers.command(name="start")
def server_start() -> None:
    """Start the server in the background, once.

    Example: trainctl server start
    """
    with reported():
        from gateway.prefect import server, server_status

        say(server.start())
        facts = server_status.status()
        if facts["configured_by"] and facts["used"] != facts.get("url"):
            note(server_status.as_words(facts)[0])


@servers.command(name="stop")
def server_stop() -> None:
    """Stop the server that trainctl started; jobs in training go on.

    Example: trainctl server stop
    """
    with reported():
        from gateway.prefect import server

        stopped = server.stop()
        say(f"stopped {stopped.url}" if stopped else "no server of trainctl runs")


@servers.command(name="status")
def show_status(json: AsJson = False) -> None:  # noqa: FBT002
    """Say which server is in use and why, and how it and our own are.

    With --json the exit code is 5 if the server in use is not healthy.

    Example: trainctl server status
    """
    with reported():
        from gateway.prefect import server_status

        facts = server_status.status()
        if json:
            say_json(facts)
            raise typer.Exit(Exit.OK if facts.get("healthy", True) else Exit.UNREACHABLE)
        for line in server_status.as_words(facts):
            say(line)
