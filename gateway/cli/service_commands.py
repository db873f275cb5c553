"""`trainctl serve`: the HTTP interface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.exits import reported

service_commands = typer.Typer()

Host = Annotated[
    str | None, typer.Option(help="The address to listen on. Default: 127.0.0.1, this computer's.")
]
Port = Annotated[
    int | None, typer.Option(min=0, max=65535, help="The port. Default: 8000; 0: a free one.")
]


@service_commands.command()
def serve(host: Host = None, port: Port = None) -> None:
    """Serve the HTTP interface until a signal ends it; jobs go on.

    Example: trainctl serve --port 8000
    """
    with reported():
        from gateway.cli import serving

        serving.serve(host, port)


@service_commands.command()
def agent(
    host: Host = None,
    port: Port = None,
    env_file: Annotated[
        Path, typer.Option(help="Lines NAME=value; the environment outweighs them.")
    ] = Path(".env"),
) -> None:
    """Serve the HTTP interface on a GPU machine, train its jobs here, and report to BACKEND_URL.

    Example: trainctl agent --env-file agent.env
    """
    with reported():
        from gateway.cli import serving

        serving.serve_agent(env_file, host, port)
