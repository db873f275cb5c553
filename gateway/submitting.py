"""Hand a job to a deployment, whose worker trains it."""

from __future__ import annotations

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from flows.outcome import job_state
from gateway import jobs, watch
from gateway.api import call
from gateway.exits import Exit, code_of_state, say, say_json
from gateway.live import display
from trainer.config import TrainingJob
from trainer.errors import ConfigError

PRIORITIES = ("high", "default", "low")


def submit(
    job: TrainingJob, deployment: str, priority: str, *, follow: bool, as_json: bool
) -> Exit:
    """Create a run of the deployment with this job as its parameter."""

    async def work(client: PrefectClient) -> Exit:
        try:
            target = await client.read_deployment_by_name(deployment)
        except (ObjectNotFound, ValueError):
            raise ConfigError(
                f"Prefect has no deployment {deployment!r}.",
                "Create it: run 'make deploy'. Or train without one: trainctl run.",
            ) from None
        created = await client.create_flow_run_from_deployment(
            target.id,
            parameters={"job": job.model_dump(mode="json")},
            name=job.name,
            work_queue_name=priority,
        )
        if as_json:
            say_json({"id": str(created.id), "name": job.name, "link": jobs.link(created.id)})
        else:
            say(f"job {created.id}")
            say(f"link {jobs.link(created.id)}")
        if not follow:
            return Exit.OK
        with display() as screen:
            steps = watch.published(client, created.id)
            run = await watch.until_rest(client, created.id, steps, screen)
        return code_of_state(job_state(run))

    return call(work)


def check_priority(priority: str) -> None:
    """Refuse a priority that has no queue.

    Raises:
        ConfigError: it is none of the three.
    """
    if priority not in PRIORITIES:
        raise ConfigError(
            f"--priority = {priority!r}: must be one of {', '.join(PRIORITIES)}.", "Choose one."
        )
