"""Hand a batch to Prefect: every job of it once, however often it is tried, and by whomever.

Each run has the key `<batch>/<job>`, by which Prefect makes it once. It says nothing where the key is
there with another body, so that is compared here, by a hash that the run bears as a label.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from flows.batches.members import BODY, JOB, TAG, idempotency_key, labels_of, tag_of
from flows.batches.plan import BatchPlan, PlannedJob
from flows.scheduling.admission import refuse_impossible
from flows.scheduling.labels import text
from gateway.batches.finding import runs_of
from gateway.cli.submitting import with_priority
from gateway.prefect.client import JobRun, LightClient
from trainer.contract.errors import ConfigError, OrchestratorError

AT_ONCE = 100  # runs that one call of Prefect's API creates at most
TRIES = 6
PAUSE = 0.5  # seconds before the first repetition; each further pause is twice as long
TRAINING_POOL = "training"
"""The type of the work pools whose worker knows what a job comes after."""
HOPELESS = ("Parameter validation failed", "Invalid schema", "Parameter schema", "Job variables")
"""How the errors of an entry begin that would come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """What became of a submission."""

    runs: dict[str, UUID]
    """The runs of all jobs, by the names of these."""
    new: int
    """How many of them were not there before."""


def submit(client: LightClient, plan: BatchPlan, *, pause: float = PAUSE) -> Submitted:
    """Create what is not there yet of a batch.

    Args:
        client: of Prefect's API.
        plan: of the batch.
        pause: seconds before what failed is tried again the first time.

    Raises:
        ConfigError: a deployment is missing, or its pool's worker knows no batches; a batch of this name
            is another one; Prefect does not take a job.
        OrchestratorError: not every job could be created; the same call goes on with the rest.
    """
    targets = targets_of(client, plan)
    there = {text(run.labels, JOB): run for run in runs_of(client, plan.name)}
    _refuse_another(plan, there)
    missing = [one for one in plan.jobs if one.name not in there]
    for name, target in targets.items():
        ours = [one for one in missing if one.deployment == name]
        for start in range(0, len(ours), AT_ONCE):
            _create(client, target, plan, ours[start : start + AT_ONCE], pause)
    # Read again: two who submit at the same moment must not both believe that theirs was taken.
    there = {text(run.labels, JOB): run for run in runs_of(client, plan.name)}
    _refuse_another(plan, there)
    if lost := [one.name for one in plan.jobs if one.name not in there]:
        raise _incomplete(plan, lost, "Prefect does not show them")
    return Submitted(runs={one.name: there[one.name].id for one in plan.jobs}, new=len(missing))


def targets_of(client: LightClient, plan: BatchPlan) -> dict[str, UUID]:
    """Return the ids of the deployments, by name.

    Raises:
        ConfigError: a deployment is missing, its pool's worker knows no batches, or no machine of the
            pool can ever hold one of the jobs.
    """
    found: dict[str, UUID] = {}
    for name in dict.fromkeys(one.deployment for one in plan.jobs):
        facts = client.deployment_facts(name)
        if facts is None:
            raise ConfigError(
                f"Prefect has no deployment {name!r}.", "Create it: run 'trainctl deploy'."
            )
        pool = facts.get("work_pool_name")
        _refuse_pool(client, plan, name, pool)
        if pool:
            jobs = [one.job.model_dump(mode="json") for one in plan.jobs if one.deployment == name]
            asyncio.run(refuse_impossible(client.asking(), pool, jobs))
        found[name] = UUID(facts["id"])
    return found


def _refuse_pool(client: LightClient, plan: BatchPlan, deployment: str, pool: str | None) -> None:
    """Refuse a pool whose worker would start jobs before those that they come after.

    Raises:
        ConfigError: naming the pool and what the batch needs of its worker.
    """
    jobs = [one for one in plan.jobs if one.deployment == deployment]
    needs = {
        "after": any(one.after for one in jobs),
        "max_concurrent": plan.settings.max_concurrent is not None,
        "on_failure": plan.settings.on_failure == "stop",
    }
    asked = [name for name, is_asked in needs.items() if is_asked]
    facts = client.work_pool(pool) if pool else None
    if asked and (facts or {}).get("type") != TRAINING_POOL:
        kind = f"is of type {facts['type']}" if facts else "does not exist"
        raise ConfigError(
            f"{plan.source}: has {asked[0]}, and work pool {pool!r} of deployment {deployment} {kind}, "
            "whose worker starts jobs in any order.",
            f"Delete the pool in Prefect, run 'trainctl deploy', which makes one of type {TRAINING_POOL}, "
            "and start 'trainctl worker' again.",
        )


def _refuse_another(plan: BatchPlan, there: dict[str, JobRun]) -> None:
    """Refuse a batch whose name another one has.

    Raises:
        ConfigError: naming a job that differs.
    """
    planned = {one.name: one for one in plan.jobs}
    for name, run in there.items():
        if name in planned and run.labels.get(BODY) == planned[name].digest():
            continue
        differs = "with other settings" if name in planned else "and is not in this file"
        raise ConfigError(
            f"{plan.source}: a batch {plan.name!r} was submitted before: its job {name} {differs}.",
            f"Give this one a name of its own: --name {plan.name}-2.",
        )


def _create(
    client: LightClient, target: UUID, plan: BatchPlan, jobs: Sequence[PlannedJob], pause: float
) -> None:
    """Create the runs of jobs, repeating those that failed; the answer says so for each."""
    left, why = list(jobs), ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(pause * 2 ** (attempt - 1))
        results = client.runs_of_deployment(target, [_body(plan, one) for one in left])
        failed = list(_failed(left, results))
        for one, error in failed:
            if error.startswith(HOPELESS):
                raise ConfigError(
                    f"{plan.source}: jobs.{one.name}: Prefect does not take it: {' '.join(error.split())[:300]}.",
                    "Correct the job; if it is in order, run 'trainctl deploy' again.",
                )
        if not failed:
            return
        left, why = [one for one, _ in failed], failed[0][1]
    raise _incomplete(plan, [one.name for one in left], why)


def _failed(jobs: Sequence[PlannedJob], results: Sequence[Any]) -> Iterator[tuple[PlannedJob, str]]:
    for number, one in enumerate(jobs):
        # An answer with fewer entries than were asked for says nothing of the rest.
        result = results[number] if number < len(results) else {"error": "Prefect gave no answer"}
        if result.get("status") != "CREATED" or not result.get("flow_run_id"):
            yield one, str(result.get("error") or "Prefect gave no reason")


def _incomplete(plan: BatchPlan, names: Sequence[str], why: str) -> OrchestratorError:
    few = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return OrchestratorError(
        f"{len(names)} of {len(plan.jobs)} jobs of batch {plan.name} were not submitted ({few}): "
        f"{' '.join(why.split())[:300].rstrip('.')}.",
        "Submit the batch again: what is there is not submitted twice.",
    )


def _body(plan: BatchPlan, planned: PlannedJob) -> dict[str, Any]:
    job, queue = with_priority(planned.job, None)
    return {
        # Queued and not Scheduled, which Prefect turns into Late; a job may wait for others for days.
        "state": {"type": "SCHEDULED", "name": "Queued"},
        "name": planned.job.name,
        "parameters": {"job": job.model_dump(mode="json")},
        "work_queue_name": queue,
        "tags": [TAG, tag_of(plan.name)],
        "labels": labels_of(plan, planned),
        "idempotency_key": idempotency_key(plan.name, planned.name),
    }
