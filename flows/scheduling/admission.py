"""Refuse a job when it is submitted that no machine of its pool can ever hold. Nothing here imports Prefect."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from flows.asking import AskApi
from flows.scheduling.announced import KNOWN_SECONDS, announced
from flows.scheduling.occupancy import why_never
from flows.scheduling.seen import Demands, wishes_of
from flows.scheduling.settings import settings_of, variable_of
from trainer.contract.errors import ConfigError


async def refuse_impossible(ask: AskApi, pool: str, jobs: Iterable[dict[str, Any]]) -> None:
    """Refuse jobs that could only wait for ever.

    Args:
        ask: asks Prefect's API.
        pool: the work pool that they are for. One whose machines nobody has announced lately refuses
            nothing.
        jobs: as their runs will have them, in plain values.

    Raises:
        ConfigError: naming the first of them, what it asks for, and what there is.
    """
    variables = {"variables": {"name": {"any_": [variable_of(pool)]}}}
    kept = await ask("/variables/filter", variables)
    known = await announced(ask, pool, within=KNOWN_SECONDS, now=time.time())
    try:
        settings = settings_of(kept[0]["value"] if kept else None, pool)
    except ConfigError:
        return  # the worker goes by those before, which are not known here
    machines = [settings.limited(machine) for machine in known]
    demands = Demands(machines)
    for job in jobs:
        demand = demands.of(wishes_of(job))
        reason = why_never(demand, machines) if machines else ""
        quota = settings.quotas.get(str(job.get("project") or ""))
        if quota and quota.gpus is not None and demand.gpus > quota.gpus:
            reason = (
                f"it needs {demand.gpus} GPUs, and project {job['project']} may have {quota.gpus}"
            )
        if reason:
            raise ConfigError(
                f"resources of job {job.get('name')}: it can never start in pool {pool}: {reason}.",
                f"Ask for less, or submit it to a deployment of another pool. Its limits: "
                f"trainctl pool show {pool}",
            )
