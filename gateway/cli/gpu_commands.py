"""`trainctl gpus`: the GPUs of this computer, and how other programs take them too."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.options import AsJson
from gateway.exits import reported, say

gpu_commands = typer.Typer(
    help="The GPUs of this computer: who has which, and how other programs take them too.",
    invoke_without_command=True,
)


@gpu_commands.callback()
def gpus(context: typer.Context, json: AsJson = False) -> None:  # noqa: FBT002
    """Show the GPUs of this computer: who has which, and what ails them.

    Example: trainctl gpus
    """
    if context.invoked_subcommand:
        return
    with reported():
        from gateway.cli.gpus import show_gpus

        show_gpus(as_json=json)


@gpu_commands.command(
    name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
def execute(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments.")],
    count: Annotated[int, typer.Option(min=1, max=64, help="How many GPUs, of one kind.")] = 1,
    min_vram_gb: Annotated[
        float | None, typer.Option(min=0.001, help="Free memory that each must have, in GiB.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for free GPUs.")] = True,  # noqa: FBT002
) -> None:
    """Take GPUs for a program of your own, which sees them alone; jobs keep away until it ends.

    Example: trainctl gpus exec --count 2 -- python my_experiment.py
    """
    with reported():
        from gateway.cli.gpus import execute_on_gpus

        execute_on_gpus(command, count, min_vram_gb, wait=wait)


@gpu_commands.command()
def heal(
    uuid: Annotated[str, typer.Argument(help="The GPU's UUID, as trainctl gpus shows it.")],
) -> None:
    """Put a GPU to use again that was taken out, after it has been reset or exchanged.

    Example: trainctl gpus heal GPU-8f3b0a2c
    """
    with reported():
        from gateway.cli.gpus import heal_gpu

        say(heal_gpu(uuid))
