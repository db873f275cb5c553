"""The deployments of the flows as data: what each runs, where, with which form and schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.flows import Flow

from deployments.form import JsonSchema, form_of, short_form
from deployments.pools import CLOUD_POOL, LOCAL_POOL
from flows.job_file import EXAMPLES
from flows.reconcile import reconcile
from flows.train import train


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosted:
    """A flow on offer under a name.

    `entrypoint`, `description` and `form` are ours and follow the code. The rest is how a
    deployment begins; afterwards it belongs to the server's administrator.
    """

    name: str
    flow: Flow[..., Any]
    pool: str
    description: str
    form: Callable[[], JsonSchema]
    tags: tuple[str, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    schedule: DeploymentScheduleCreate | None = None
    most_at_once: int | None = None

    @property
    def full_name(self) -> str:
        """FLOW/NAME, as Prefect shows it."""
        return f"{self.flow.name}/{self.name}"

    @property
    def entrypoint(self) -> str:
        """The module and function: the package is installed where the worker runs."""
        return f"{self.flow.fn.__module__}.{self.flow.fn.__name__}"

    def ours(self) -> dict[str, Any]:
        """Return the fields that every deploy sets."""
        return {
            "description": self.description,
            "entrypoint": self.entrypoint,
            "parameter_openapi_schema": self.form(),
            # Empty, not missing: there is no code to fetch, because the package is installed where
            # the worker runs. A deployment of an older version may have steps with local paths.
            "pull_steps": [],
        }

    def at_first(self) -> dict[str, Any]:
        """Return the fields that only a new deployment is given."""
        # Cancelled, not queued: late passes of reconcile would only repeat what the next one does.
        # Not one at a time: the next one goes on without the machine that holds this one up.
        # `flows.tidying` deletes the cancelled ones.
        skip_when_busy = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
        return {
            "work_pool_name": self.pool,
            "work_queue_name": "default",
            "tags": list(self.tags),
            "parameters": self.parameters,
            "schedules": [self.schedule] if self.schedule else [],
            "enforce_parameter_schema": True,
            # A flow must outlive its worker. If its output went through the worker, its next line
            # after the worker's death would end it with a broken pipe.
            "job_variables": {"stream_output": False},
            "concurrency_limit": self.most_at_once,
            "concurrency_options": skip_when_busy if self.most_at_once else None,
        }


CATALOGUE = (
    Hosted(
        name="quick",
        flow=train,
        pool=LOCAL_POOL,
        description="The short form: a model, a dataset, a method, and where. Everything else "
        "is as the method usually has it.",
        form=short_form,
        tags=("local-gpu",),
    ),
    Hosted(
        name="local",
        flow=train,
        pool=LOCAL_POOL,
        description="Train one model or adapter on this computer. The form has every field of "
        "a job; a job as JSON will do too.",
        form=lambda: form_of(train),
        tags=("local-gpu",),
    ),
    Hosted(
        name="cloud",
        flow=train,
        pool=CLOUD_POOL,
        description="Train one model or adapter on a rented machine: set provider to runpod, "
        "lambda, vast, ssh, a list of them, or any.",
        form=lambda: form_of(train),
        tags=("cloud",),
    ),
    Hosted(
        name="every-minute",
        flow=reconcile,
        pool=CLOUD_POOL,
        description="Keeps the promise of every job whose process died: revives it, or ends "
        "its machine. Only machines whose name bears this installation's mark are touched. "
        "Runs that found all well are removed after a few minutes.",
        form=lambda: form_of(reconcile),
        tags=("reconcile",),
        # A machine without an owner costs money by the minute.
        schedule=DeploymentScheduleCreate(
            schedule=IntervalSchedule(interval=timedelta(minutes=1)), active=True
        ),
        most_at_once=4,
    ),
    Hosted(
        name="nightly",
        flow=train,
        pool=LOCAL_POOL,
        description="An example of scheduled retraining, every night at 02:00. It is paused: "
        "put your own job into its parameters, then switch the schedule on.",
        form=lambda: form_of(train),
        tags=("local-gpu", "nightly"),
        parameters={
            "job": {
                "name": "nightly",
                # `examples:` is resolved where the job runs: on the computer that deploys, the
                # folder of the examples may be another one.
                "training": {
                    "model": f"{EXAMPLES}tiny-llama",
                    "dataset": {"path": f"{EXAMPLES}quickstart.jsonl", "eval_fraction": 0.1},
                },
            }
        },
        schedule=DeploymentScheduleCreate(
            schedule=CronSchedule(cron="0 2 * * *", timezone="UTC"), active=False
        ),
    ),
)
"""All deployments."""
