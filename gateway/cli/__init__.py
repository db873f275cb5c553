"""`trainctl`: train, watch and control jobs from a terminal.

Commands import what they need when they run, so that help and errors come at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from gateway.cli.access_commands import access_commands
from gateway.cli.batch_commands import batch_commands, batches
from gateway.cli.file_commands import file_commands
from gateway.cli.gpu_commands import gpu_commands
from gateway.cli.metrics_commands import metrics_commands
from gateway.cli.notify_commands import notify
from gateway.cli.options import (
    AcceptChanges,
    AsJson,
    Automations,
    Detach,
    Follow,
    JobFile,
    JobId,
    JobIdOption,
    Keep,
    MaxCost,
    MaybeJobFile,
    MaybeJobId,
    Nodes,
    Processes,
    Providers,
    ShowLogs,
    Wait,
    one_of,
)
from gateway.cli.queue_commands import pools, queue_commands
from gateway.cli.renting_commands import renting_commands
from gateway.cli.server_commands import servers
from gateway.cli.service_commands import service_commands
from gateway.exits import (
    EXIT_CODES,
    Exit,
    complain,
    make_printable,
    reported,
    say,
    unexpected,
)
from trainer.contract.garbage import search_seldom
from trainer.contract.job_directory import JobState
from trainer.contract.own_python import forget_working_folder

app = typer.Typer(
    name="trainctl",
    help=f"Fine-tune language models: one YAML file, one command.\n\n{EXIT_CODES}",
    epilog="Begin with: trainctl init; trainctl validate job.yaml; trainctl run job.yaml",
    pretty_exceptions_enable=False,
)
# Without a name Typer takes the commands into this level: `trainctl offers`, not `renting offers`.
app.add_typer(renting_commands)
app.add_typer(service_commands)
app.add_typer(access_commands)
app.add_typer(queue_commands)
app.add_typer(pools, name="pool")
app.add_typer(file_commands)
app.add_typer(batch_commands)
app.add_typer(batches, name="batches")
app.add_typer(servers, name="server")
app.add_typer(gpu_commands, name="gpus")
app.add_typer(notify, name="notify")
app.add_typer(metrics_commands, name="metrics")


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with what was given
    if wanted:
        from importlib.metadata import version as version_of

        say(f"trainctl {version_of('training-orchestrator')}")
        raise typer.Exit


@app.command()
def run(
    file: JobFile,
    provider: Providers = None,
    keep: Keep = None,
    max_cost: MaxCost = None,
    detach: Detach = False,  # noqa: FBT002
    logs: ShowLogs = False,  # noqa: FBT002
) -> None:
    """Train a job, with a live view. Ctrl-C asks: detach, stop or continue.

    For a completed job the last two lines name the weights' file and its SHA-256.

    Example: trainctl run examples/quickstart.yaml --provider runpod,vast --max-cost 2
    """
    with reported():
        from gateway import checks
        from gateway.cli import running

        job = checks.checked_job(file, provider, keep=keep, max_cost=max_cost)
        raise typer.Exit(running.run(job, detach=detach, logs=logs))


@app.command()
def submit(
    file: MaybeJobFile = None,
    config: Annotated[Path | None, typer.Option(help="The job file, as an option.")] = None,
    name: Annotated[str | None, typer.Option(help="The job's name, instead of its own.")] = None,
    deployment: Annotated[str, typer.Option(help="FLOW/NAME of the deployment.")] = "train/local",
    priority: Annotated[
        str | None,
        typer.Option(help="high, default, low, or 0 to 100; more goes first. Default: the job's."),
    ] = None,
    follow: Follow = False,  # noqa: FBT002
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """Hand a job to a deployment; a worker trains it, perhaps on another computer.

    A file or folder that is not on this computer must be on the worker's, under the same path.

    Example: trainctl submit job.yaml --priority high --follow
    """
    with reported():
        from gateway import checks
        from gateway.cli import submitting

        submitting.check_priority(priority)
        path = one_of("FILE", file, "--config", config)
        job = checks.checked_job(path, name=name, for_worker=True)
        job, queue = submitting.with_priority(job, priority)
        code = submitting.submit(job, deployment, queue, follow=follow, as_json=json)
        raise typer.Exit(code)


@app.command(name="list")
def list_jobs(
    state: Annotated[
        str | None,
        typer.Option(
            "--state", "--status", help=f"Only jobs in this state: {', '.join(JobState)}."
        ),
    ] = None,
    provider: Annotated[str | None, typer.Option(help="Only jobs of this provider.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")] = 20,
    json: AsJson = False,  # noqa: FBT002
) -> None:
    """List jobs, the newest first.

    Example: trainctl list --state running
    """
    with reported():
        from gateway.cli import listing

        listing.list_jobs(listing.state_named(state), provider, limit, as_json=json)


@app.command()
def status(job: MaybeJobId = None, job_id: JobIdOption = None, json: AsJson = False) -> None:  # noqa: FBT002
    """Show everything about one job.

    Example: trainctl status 1a2b3c4d
    """
    with reported():
        from gateway.cli import listing

        listing.show_job(one_of("ID", job, "--job-id", job_id), as_json=json)


@app.command()
def logs(
    job: JobId,
    follow: Follow = False,  # noqa: FBT002
    tail: Annotated[
        int | None, typer.Option(min=0, max=10**9, help="Print only this many of the last lines.")
    ] = None,
) -> None:
    """Print a job's training log.

    Example: trainctl logs quickstart --follow --tail 20
    """
    with reported():
        from gateway.cli import looking

        looking.logs(job, follow=follow, tail=tail)


@app.command()
def monitor(
    job: MaybeJobId = None,
    job_id: JobIdOption = None,
    follow: Follow = False,  # noqa: FBT002
) -> None:
    """Show a job's progress through Prefect; works from any computer.

    Example: trainctl monitor 1a2b --follow
    """
    with reported():
        from gateway.cli import looking

        raise typer.Exit(looking.monitor(one_of("ID", job, "--job-id", job_id), follow=follow))


@app.command()
def cancel(job: MaybeJobId = None, job_id: JobIdOption = None, wait: Wait = True) -> None:  # noqa: FBT002
    """Stop a job with a saved checkpoint; 'trainctl resume' goes on from it.

    Example: trainctl cancel 1a2b
    """
    with reported():
        from gateway.cli import commands

        raise typer.Exit(commands.cancel(one_of("ID", job, "--job-id", job_id), wait=wait))


@app.command()
def pause(job: JobId, wait: Wait = True) -> None:  # noqa: FBT002
    """Pause a running job with a saved checkpoint; its machine is free meanwhile.

    Example: trainctl pause 1a2b
    """
    with reported():
        from gateway.cli import commands

        raise typer.Exit(commands.pause(job, wait=wait))


@app.command()
def resume(
    job: JobId,
    detach: Detach = False,  # noqa: FBT002
    logs: ShowLogs = False,  # noqa: FBT002
    accept_changes: AcceptChanges = False,  # noqa: FBT002
    nodes: Nodes = None,
    processes: Processes = None,
) -> None:
    """Go on with a paused, stopped or failed job, or one whose process died.

    A job of a deployment is given to its worker again; any other runs here, like 'run'.

    Example: trainctl resume 1a2b
    """
    with reported():
        from gateway.cli import commands

        shape = {"nodes": nodes, "processes": processes}
        ended = commands.resume(job, detach=detach, logs=logs, accept=accept_changes, shape=shape)
        raise typer.Exit(ended)


@app.command()
def download(
    job: JobId,
    to: Annotated[Path | None, typer.Option(help="The folder to make. Default: ./NAME-ID.")] = None,
) -> None:
    """Copy the verified artifact of a completed job, and verify the copy.

    Example: trainctl download quickstart --to ./adapter
    """
    with reported():
        from gateway.cli import looking

        looking.download(job, to)


@app.command()
def push(
    job: JobId,
    to: Annotated[str | None, typer.Option(help="owner/name, instead of the job's own.")] = None,
) -> None:
    """Upload a completed job's verified artifact to the Hub, by HF_TOKEN or `hf auth login`.

    Example: trainctl push quickstart --to ada/quickstart
    """
    with reported():
        from gateway.cli import looking

        looking.push(job, to)


@app.command()
def deploy(automations: Automations = None) -> None:
    """Make work pools, queues and deployments on the Prefect server, or bring them up to date.

    What an administrator changed there, such as limits, schedules and parameters, is kept.

    Example: trainctl deploy --automations examples/automations
    """
    with reported():
        from gateway.cli import hosting

        hosting.deploy(automations or ())


@app.command()
def worker(
    pool: Annotated[
        list[str] | None,
        typer.Option(help="The work pool to serve; may come again. Default: local-gpu and cloud."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs that may train here at once. Default: one per GPU, or one."),
    ] = None,
) -> None:
    """Execute on this computer the jobs that are submitted. When it ends, jobs go on.

    Example: trainctl worker --limit 2
    """
    with reported():
        from gateway.cli import hosting

        hosting.work(pool or [], limit)


@app.callback()
def options(
    version: Annotated[  # noqa: FBT002
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_version),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


@app.command()
def version() -> None:
    """Print the version.

    Example: trainctl version
    """
    _version(wanted=True)


def main(arguments: list[str] | None = None) -> None:
    """Run `trainctl`: a mistake in its use is one line too, with exit code 2."""
    arguments = sys.argv[1:] if arguments is None else arguments
    search_seldom()
    forget_working_folder()
    # Before anything is written: a stream may be closed, or unable to encode a name.
    make_printable()
    # Not in standalone mode: Click would print usage, a box and a hint, where one line is
    # promised.
    command = typer.main.get_command(app)
    try:
        code = command.main(arguments or ["--help"], prog_name="trainctl", standalone_mode=False)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        asked = context.command_path if context else "trainctl"
        text = error.format_message().rstrip()
        complain(f"{text}{'' if text.endswith(('.', '?', ')')) else '.'} See: {asked} --help")
        sys.exit(Exit.BAD_INPUT)
    # Ctrl-C in a question of Click's raises Abort, anywhere else KeyboardInterrupt.
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        # As in `trainctl list | head -1`. Python would complain when it flushes at exit, see
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.OK)
    except Exception as error:  # noqa: BLE001 - a traceback on the screen helps nobody
        complain(unexpected(error))
        sys.exit(Exit.FAILED)
    sys.exit(code if isinstance(code, int) else Exit.OK)
