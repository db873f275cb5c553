"""Start the deployment that a job names in `on_completion`, once, when the job has completed.

`flows.next_deployment` looks at it without Prefect's package, for `trainctl submit`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import httpx
from prefect.exceptions import ObjectNotFound

from flows.job_events.kinds import plain
from flows.job_events.noting import used
from flows.logger import logger
from flows.next_deployment import FIELD, refuse_missing
from flows.prefect_api import CREATE_SECONDS, UNANSWERED, asking_once, is_away, prefect_client
from flows.run_folder import RunFolder, this_run_id
from trainer.config import TrainingJob
from trainer.config.on_completion import RESULTS, OnCompletion, with_results
from trainer.contract.errors import ConfigError

TRIES = 10  # at starting it, where Prefect answers that it fails
AGAIN_SECONDS = 5.0


async def refuse_unfit(job: TrainingJob) -> str:
    """Return the deployment that comes after a job, in words; empty where none does.

    While Prefect does not answer, the job goes on: it is looked at again when the job has completed.

    Raises:
        ConfigError: it does not exist, or does not take its parameters.
    """
    if (wanted := job.on_completion) is None:
        return ""
    try:
        async with prefect_client() as client:
            with asking_once():
                found = await client.read_deployment_by_name(wanted.deployment)
    except ObjectNotFound:
        refuse_missing(wanted, None)
        raise
    except UNANSWERED as error:
        logger().warning("%s is not looked at: %s", FIELD, error)
        return f"{wanted.deployment}: Prefect does not answer"
    refuse_missing(wanted, found.model_dump(mode="json"))
    given = {**(found.parameters or {}), **with_results(wanted.parameters, RESULTS)}
    if found.enforce_parameter_schema and found.parameter_openapi_schema:
        # Twenty megabytes, for those who need it.
        from prefect.utilities.schema_tools.validation import validate

        for wrong in validate(given, found.parameter_openapi_schema):
            raise ConfigError(
                f"on_completion.parameters: {wanted.deployment} does not take them: "
                f"{wrong.json_path.removeprefix('$.')}: {wrong.message}.",
                "Correct the value.",
            )
    return wanted.deployment


async def start_next(job: TrainingJob, run: RunFolder, report: dict[str, Any]) -> dict[str, Any]:
    """Start the deployment, however often this is called, and return the report with its run.

    The job has completed: where its deployment is gone meanwhile, the report says so.
    """
    if (wanted := job.on_completion) is None:
        return report
    try:
        started = await _started(
            wanted, with_results(wanted.parameters, results_of(job, run, report))
        )
    except UNANSWERED as error:
        why = f"{wanted.deployment} was not started: {_reason(error)}"
        logger().error("on_completion: %s", why)
        before = report.get("missing")
        return {**report, "missing": f"{before}; {why}" if before else why}
    logger().info("on_completion: %s runs as %s", wanted.deployment, started)
    return {**report, "next_run": str(started)}


async def _started(wanted: OnCompletion, parameters: dict[str, Any]) -> UUID:
    failures = 0
    while True:
        try:
            async with prefect_client() as client:
                with asking_once(CREATE_SECONDS):
                    found = await client.read_deployment_by_name(wanted.deployment)
                    started = await client.create_flow_run_from_deployment(
                        found.id,
                        parameters=parameters,
                        # The same in every execution of this run: Prefect returns the first one's.
                        idempotency_key=f"on_completion/{this_run_id()}",
                    )
                return started.id
        except httpx.HTTPError as error:
            # An API that is away is waited for, as for the run's last state. One that answers all
            # else, and fails by this call alone, must not keep a completed job from its end.
            failures += isinstance(error, httpx.HTTPStatusError)
            if not is_away(error) or failures >= TRIES:
                raise
            await asyncio.sleep(AGAIN_SECONDS)


def results_of(job: TrainingJob, run: RunFolder, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a completed job's parameters may name; see `trainer.config.on_completion.RESULTS`."""
    metrics = report.get("metrics") or {}
    found = {
        "job.id": run.run_id,
        "job.name": job.name,
        "job.output": report.get("path"),
        "job.store": report.get("store"),
        "job.model": job.training.model,
        "job.steps": metrics.get("steps"),
        "job.train_loss": metrics.get("train_loss"),
        "job.eval_loss": metrics.get("eval_loss"),
        "job.seconds": report.get("seconds"),
        "job.gpu_seconds": used(run)["gpu_seconds"],
        "job.cost_usd": report.get("cost"),
    }
    filled: dict[str, Any] = plain(found)
    return filled


def _reason(error: Exception) -> str:
    answer = getattr(error, "response", None)
    return str(answer.text)[:300] if answer is not None else str(error)
