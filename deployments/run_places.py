"""Whether a run is executed in the worker's own process, by what its deployment says."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import ObjectNotFound

from deployments.catalogue import CATALOGUE
from deployments.flow_process import SafeConfiguration

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, WorkPool
    from prefect.client.schemas.responses import DeploymentResponse
    from prefect.flows import Flow

KEPT_SECONDS = 30.0  # for which a deployment is not read again
OURS = {hosted.entrypoint: hosted.flow for hosted in CATALOGUE}
"""The flows that may share a process: async, and made to be one of many."""


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a run is executed."""

    flow: Flow[..., Any] | None
    """The flow to be executed in the worker's process; None: it gets one of its own."""
    required: tuple[str, ...] = ()
    """The parameters that the form of its deployment requires."""


class RunPlaces:
    """Knows where the runs of a pool are executed."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._known: dict[UUID, tuple[float, RunPlace]] = {}

    async def of(self, run: FlowRun, pool: WorkPool) -> RunPlace:
        """Return where a run is executed.

        Raises:
            httpx.HTTPError: Prefect does not answer.
        """
        if run.deployment_id is None:
            return RunPlace(None)
        at, place = self._known.get(run.deployment_id, (0.0, RunPlace(None)))
        if not at or time.monotonic() - at > KEPT_SECONDS:
            place = await self._read(run.deployment_id, pool)
            self._known[run.deployment_id] = time.monotonic(), place
        if place.flow and run.job_variables and await self._is_apart(pool, run.job_variables):
            return RunPlace(None, place.required)
        return place

    async def _read(self, deployment_id: UUID, pool: WorkPool) -> RunPlace:
        try:
            deployment = await self._client.read_deployment(deployment_id)
        except ObjectNotFound:
            return RunPlace(None)  # Prefect's own way with such a run is taken
        required = tuple((deployment.parameter_openapi_schema or {}).get("required", []))
        flow = _flow_of(deployment)
        if flow and await self._is_apart(pool, deployment.job_variables or {}):
            flow = None
        return RunPlace(flow, required)

    async def _is_apart(self, pool: WorkPool, variables: dict[str, Any]) -> bool:
        """Whether job variables ask for what only a process of its own can have."""
        configuration: SafeConfiguration = await SafeConfiguration.from_template_and_values(
            base_job_template=pool.base_job_template, values=variables, client=self._client
        )
        return bool(configuration.env or configuration.command or configuration.working_dir)


def _flow_of(deployment: DeploymentResponse) -> Flow[..., Any] | None:
    """Return the flow of ours that a deployment runs, from where it is installed; None: another."""
    if deployment.pull_steps or deployment.path not in (None, "", "."):
        return None
    return OURS.get(deployment.entrypoint or "")
