"""Hand a job to a deployment, whose worker trains it."""

from __future__ import annotations

from contextlib import suppress

from flows.scheduling.labels import of_submit
from gateway import jobs
from gateway.cli import looking
from gateway.exits import ApiUnreachable, Exit, say, say_json
from gateway.prefect.client import connected
from gateway.view import printable
from trainer.config import TrainingJob
from trainer.contract.errors import ConfigError

PRIORITIES = ("high", "default", "low")


def submit(
    job: TrainingJob, deployment: str, priority: str, *, follow: bool, as_json: bool
) -> Exit:
    """Create a run of the deployment with this job as its parameter."""
    client = connected()
    target = client.deployment(deployment)
    if target is None:
        raise ConfigError(
            f"Prefect has no deployment {deployment!r}.",
            "Create it: run 'trainctl deploy'. Or train without one: trainctl run.",
        )
    created = client.run_of_deployment(
        target,
        name=job.name,
        parameters={"job": job.model_dump(mode="json")},
        # Queues of these names are made by `trainctl deploy`, with priorities 1, 2 and 3.
        work_queue_name=priority,
        labels=of_submit(project=job.project),
    )
    waiting = None
    with suppress(ApiUnreachable):  # the job is handed over; only the extra information is missing
        waiting = client.waiting(created)
    if as_json:
        facts = {"id": str(created.id), "name": job.name, "link": jobs.link(created.id)}
        say_json({**facts, "waiting": waiting})
    else:
        say(f"job {created.id}")
        say(f"link {jobs.link(created.id)}")
        if waiting:
            say(printable(waiting["text"]))
    return looking.follow(created.id) if follow else Exit.OK


def check_priority(priority: str) -> None:
    """Refuse a priority that has no queue.

    Raises:
        ConfigError: it is not one of the three.
    """
    if priority not in PRIORITIES:
        raise ConfigError(
            f"--priority = {priority!r}: must be one of {', '.join(PRIORITIES)}.", "Choose one."
        )
