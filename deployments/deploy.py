"""Bring work pools, queues and deployments to a Prefect server: `trainctl deploy`.

Doing it again changes only what follows from the code: entrypoint, description and form. Limits,
schedules, parameters, tags, priorities and job variables belong to the server's administrator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.objects import WorkPool
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound, PrefectHTTPStatusError

from deployments.catalogue import CATALOGUE, Hosted
from deployments.pools import POOL_TYPE, POOLS, QUEUES
from deployments.training_worker import TrainingWorker
from trainer.contract.errors import ConfigError

Say = Callable[[str], None]


async def deploy(client: PrefectClient, say: Say) -> None:
    """Make what is not there, bring up to date what is ours, and say what was done and kept.

    Args:
        client: of the server.
        say: takes a line about each thing.

    Raises:
        ConfigError: the administrator's parameters of a deployment do not fit its form; the
            others are done.
    """
    for name, description in POOLS.items():
        await _pool(client, name, description, say)
    refused = [why for hosted in CATALOGUE if (why := await _deployment(client, hosted, say))]
    if refused:
        raise ConfigError("; ".join(refused), "Correct the parameters in Prefect, then again.")


async def _pool(client: PrefectClient, name: str, description: str, say: Say) -> None:
    if await _new_pool(client, name, description):
        # A new pool comes with a queue "default" of priority 1, which would rank beside "high". Only
        # a new pool's: later on the priority is the administrator's.
        made = await client.read_work_queue_by_name("default", work_pool_name=name)
        await client.update_work_queue(made.id, priority=QUEUES["default"])
        say(f"created  work pool {name}")
    else:
        pool = await client.read_work_pool(name)
        say(f"kept     work pool {name}: {_pool_facts(pool)}")
    # Also for a pool that exists: an earlier deploy may have been interrupted before its queues.
    queues = {queue.name: queue for queue in await client.read_work_queues(work_pool_name=name)}
    for queue, priority in QUEUES.items():
        if queue not in queues:
            # Whoever deploys at the same moment may have made it since.
            with contextlib.suppress(ObjectAlreadyExists):
                await client.create_work_queue(name=queue, work_pool_name=name, priority=priority)
            say(f"created  queue {name}/{queue}: priority {priority}")
        elif queues[queue].priority != priority:
            say(f"kept     queue {name}/{queue}: priority {queues[queue].priority}")


async def _new_pool(client: PrefectClient, name: str, description: str) -> bool:
    """Create a work pool, and return whether it is new."""
    try:
        await client.read_work_pool(name)
    except ObjectNotFound:
        # A pool of another type, such as Prefect's process, stays so: `trainctl worker` serves both.
        pool = WorkPoolCreate(
            name=name,
            type=POOL_TYPE,
            description=description,
            base_job_template=TrainingWorker.get_default_base_job_template(),
        )
        # Whoever deploys at the same moment may have made it since.
        with contextlib.suppress(ObjectAlreadyExists):
            await client.create_work_pool(pool)
            return True
    return False


def _pool_facts(pool: WorkPool) -> str:
    limit = pool.concurrency_limit
    facts = ["no limit" if limit is None else f"limit {limit}", *(["paused"] * pool.is_paused)]
    return ", ".join([*facts, *([f"type {pool.type}"] if pool.type != POOL_TYPE else [])])


async def _deployment(client: PrefectClient, hosted: Hosted, say: Say) -> str | None:
    """Create or update one deployment; return why the server refused that, if it did."""
    ours = hosted.ours()
    try:
        found = await client.read_deployment_by_name(hosted.full_name)
    except ObjectNotFound:
        flow_id = await client.create_flow(hosted.flow)
        await client.create_deployment(flow_id, hosted.name, **ours, **hosted.at_first())
        say(f"created  {hosted.full_name}")
        return None
    # Compared first, so that the line about it names what really changed.
    changed = sorted(name for name, value in ours.items() if _differs(found, name, value))
    kept = f"kept {', '.join(_theirs(found))}"
    if not changed:
        say(f"kept     {hosted.full_name}: unchanged; {kept}")
        return None
    try:
        # Only the given fields are sent: the rest of the deployment stays as it is.
        await client.update_deployment(found.id, DeploymentUpdate(**ours))
    except PrefectHTTPStatusError as error:
        # The server checks the administrator's parameters against the new form.
        return f"{hosted.full_name} is as it was: {error.response.text[:300]}"
    say(f"updated  {hosted.full_name}: {', '.join(changed)}; {kept}")
    return None


def _differs(found: DeploymentResponse, name: str, value: Any) -> bool:
    # The server may answer None where an empty list or text was set.
    return (getattr(found, name) or None) != (value or None)


def _theirs(found: DeploymentResponse) -> list[str]:
    """Return in words the settings of a deployment that only its administrator changes."""
    schedules = [
        f"schedule {_cadence(each.schedule)} ({'on' if each.active else 'off'})"
        for each in found.schedules
    ]
    names = ("parameters", "tags", "job_variables")
    others = [name.replace("_", " ") for name in names if getattr(found, name)]
    queue = f"queue {found.work_pool_name}/{found.work_queue_name}"
    # First, because no schedule of a paused deployment makes runs.
    return [*(["paused"] * found.paused), queue, *schedules, *others]


def _cadence(schedule: Any) -> str:
    interval = getattr(schedule, "interval", None)
    if interval is not None:
        return f"every {interval.total_seconds():g} s"
    return str(getattr(schedule, "cron", None) or getattr(schedule, "rrule", ""))
