"""Hand a job to a deployment, whose worker trains it."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from typing import Any
from uuid import UUID

from flows.scheduling.admission import refuse_impossible
from flows.scheduling.labels import of_submit
from flows.scheduling.seen import PRIORITY_OF_QUEUE
from flows.shown import QUEUED
from gateway import jobs
from gateway.cli import looking
from gateway.exits import ApiUnreachable, Exit, say, say_json
from gateway.prefect.client import LightClient, connected
from gateway.view import printable
from trainer.config import TrainingJob
from trainer.contract.errors import ConfigError


def submit(job: TrainingJob, deployment: str, queue: str, *, follow: bool, as_json: bool) -> Exit:
    """Create a run of the deployment with this job as its parameter."""
    client = connected()
    target = client.deployment_facts(deployment)
    if target is None:
        raise ConfigError(
            f"Prefect has no deployment {deployment!r}.",
            "Create it: run 'trainctl deploy'. Or train without one: trainctl run.",
        )
    values = job.model_dump(mode="json")
    jobs.check_next(client, job)
    asyncio.run(_refuse_impossible(client, target, values))
    created = client.run_of_deployment(
        UUID(target["id"]),
        name=job.name,
        parameters={"job": values},
        # Queues of these names are made by `trainctl deploy`, with priorities 1, 2 and 3.
        work_queue_name=queue,
        labels=of_submit(project=job.project),
        # Of this name from the beginning: one that is named "Scheduled" is soon shown as late.
        state={"type": "SCHEDULED", "name": QUEUED},
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


async def _refuse_impossible(
    client: LightClient, deployment: dict[str, Any], job: dict[str, Any]
) -> None:
    if pool := deployment.get("work_pool_name"):
        await refuse_impossible(client.asking(), pool, [job])


def check_priority(priority: str | None) -> None:
    """Refuse a priority that is neither the name of a queue nor a number.

    Raises:
        ConfigError: it is not.
    """
    if priority is None or priority in PRIORITY_OF_QUEUE:
        return
    if not (re.fullmatch(r"[0-9]{1,3}", priority) and int(priority) <= 100):
        raise ConfigError(
            f"--priority = {priority!r}: must be one of {', '.join(PRIORITY_OF_QUEUE)}, or a number "
            "from 0 to 100.",
            "Choose one.",
        )


def with_priority(job: TrainingJob, priority: str | None) -> tuple[TrainingJob, str]:
    """Return the job with the priority that was asked for, and the work queue that it belongs into.

    Args:
        job: as its file has it.
        priority: the name of a queue, or 0 to 100; None: the job's own.
    """
    if priority in PRIORITY_OF_QUEUE:
        return job.model_copy(update={"priority": None}), str(priority)
    number = job.priority if priority is None else int(priority)
    if number is None:
        return job, "default"
    # Workers of Prefect's own types know the queues only.
    nearest = min(PRIORITY_OF_QUEUE, key=lambda name: abs(PRIORITY_OF_QUEUE[name] - number))
    return job.model_copy(update={"priority": number}), nearest
