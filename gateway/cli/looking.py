"""The commands that only look at one job; none of them imports Prefect."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from flows.shown import job_state, short_id
from gateway import jobs
from gateway.cli import watch
from gateway.cli.download import download as copy_artifact
from gateway.cli.ending import tell_report
from gateway.cli.live import display
from gateway.cli.logs import print_log
from gateway.exits import Exit, code_of_state, say
from gateway.prefect.client import JobRun, LightClient, connected
from gateway.view import printable


def found(text: str) -> JobRun:
    """Return the job of an id, a part of one, or a name.

    Raises:
        ConfigError: there is no such job, or there are several.
        ApiUnreachable: Prefect's API does not answer, or refuses us.
    """
    return jobs.find(connected(), text)


def monitor(text: str, *, follow: bool) -> Exit:
    """Show a job as Prefect knows it, once or until it is at rest."""
    client = connected()
    run = jobs.find(client, text)
    # First of all: a job that waits shows no progress, and the reason is what the user looks for.
    if waiting := client.waiting(run):
        say(printable(waiting["text"]))
    return _show(client, run.id, follow=follow)


def follow(run_id: UUID) -> Exit:
    """Show a job until it is at rest."""
    return _show(connected(), run_id, follow=True)


def _show(client: LightClient, run_id: UUID, *, follow: bool) -> Exit:
    steps = watch.published(client, run_id)
    with display() as screen:
        show = watch.until_rest if follow else watch.show
        run = show(client, run_id, steps, screen)
    if message := jobs.message_of(run):
        say(printable(message))
    # Without --follow the job may not have ended, and its state says nothing about the success of
    # the look.
    return code_of_state(job_state(run)) if follow else Exit.OK


def logs(text: str, *, follow: bool, tail: int | None) -> None:
    """Print a job's training log."""
    client = connected()
    print_log(client, jobs.find(client, text), say, follow=follow, tail=tail)


def download(text: str, to: Path | None) -> None:
    """Copy a job's artifact and say where it is."""
    run = found(text)
    target = to or Path(f"{run.name}-{short_id(run.id)}")
    # Absolute, so that the path in the last lines can be used from any folder.
    tell_report(copy_artifact(run, target.expanduser().absolute()))


def push(text: str, repository: str | None) -> None:
    """Upload a job's artifact and say where to."""
    from gateway.cli.push import push as upload  # the job's model costs the other commands CPU time

    run = found(text)
    say(f"{upload(run, repository)} has the artifact of {run.name}")
