"""Prefect's REST API for the commands that only look, or hand a job over.

Prefect's own client costs two seconds to import.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

from flows.asking import AskApi, Json
from flows.shown import FLOW
from gateway.prefect.connecting import PrefectApi, api_url
from gateway.prefect.settings import PrefectSettings
from gateway.prefect.waiting import waiting_for
from trainer.contract.errors import ConfigError

PAGE = 200  # the most that one answer holds: PREFECT_API_DEFAULT_LIMIT, 200 by default


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run's state as the API writes it."""

    type: str
    name: str | None = None
    message: str | None = None
    timestamp: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRun:
    """A run of the training flow, as the API writes it."""

    id: UUID
    name: str
    state: RunState | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    created: datetime | None = None
    expected_start_time: datetime | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None
    estimated_run_time: timedelta = timedelta()
    labels: dict[str, Any] = field(default_factory=dict)
    deployment_id: UUID | None = None
    work_pool_name: str | None = None
    work_queue_name: str | None = None
    value: dict[str, Any] = field(default_factory=dict, repr=False)
    """All of what the API wrote."""

    @classmethod
    def of(cls, value: dict[str, Any]) -> JobRun:
        """Return the run in an answer of the API."""
        state = value.get("state")
        deployment = value.get("deployment_id")
        return cls(
            id=UUID(value["id"]),
            name=value["name"],
            state=RunState(
                **{k: state.get(k) for k in ("type", "name", "message")},
                timestamp=_time(state.get("timestamp")),
            )
            if state
            else None,
            parameters=value.get("parameters") or {},
            created=_time(value.get("created")),
            expected_start_time=_time(value.get("expected_start_time")),
            start_time=_time(value.get("start_time")),
            end_time=_time(value.get("end_time")),
            labels=value.get("labels") or {},
            estimated_run_time=timedelta(seconds=value.get("estimated_run_time") or 0.0),
            deployment_id=UUID(deployment) if deployment else None,
            work_pool_name=value.get("work_pool_name"),
            work_queue_name=value.get("work_queue_name"),
            value=value,
        )


def connected() -> LightClient:
    """Return a client of the API that is configured, or of our own server.

    Raises:
        ConfigError: what is configured is not the address of an API.
        ApiUnreachable: our own server does not come up.
    """
    settings = PrefectSettings()
    url = api_url(settings)
    if settings.url is None:
        os.environ["PREFECT_API_URL"] = url  # so that links to its pages are known
    return LightClient(PrefectApi(url, settings))


class LightClient:
    """The calls of Prefect's API that show jobs, and that hand one over.

    Every method raises `ApiUnreachable` when the API does not answer, or refuses us.
    """

    def __init__(self, api: PrefectApi) -> None:
        self._ask = api.ask
        self._find = api.find
        self.ask_anything = api.ask_anything

    def read_flow_run(self, run_id: UUID, /) -> JobRun:
        """Return a run.

        Raises:
            ConfigError: there is no run of that id.
        """
        # The id is a UUID by now, so nothing of what the user typed reaches the path.
        answer = self._find(f"flow_runs/{run_id}")
        if answer is None:
            raise ConfigError(f"There is no job {run_id}.", "'trainctl list' shows all jobs.")
        return JobRun.of(answer)

    def flow_runs(
        self,
        flow: str,
        *,
        limit: int,
        offset: int = 0,
        sort: str = "EXPECTED_START_TIME_DESC",
        **of: Any,
    ) -> list[JobRun]:
        """Return runs of a flow, the newest first.

        Args:
            flow: the flow's name.
            limit: how many at most.
            offset: how many to skip.
            sort: another order, by Prefect's names.
            of: filters of runs, as the API takes them.
        """
        body = {
            "flows": {"name": {"any_": [flow]}},
            "flow_runs": of or None,
            "sort": sort,
            "limit": limit,
            "offset": offset,
        }
        return [JobRun.of(value) for value in self._ask("POST", "flow_runs/filter", body)]

    def artifacts(self, key: str, run_ids: list[UUID]) -> list[dict[str, Any]]:
        """Return the artifacts of this key that runs have, the newest first."""
        artifacts = {"key": {"any_": [key]}, "flow_run_id": {"any_": list(map(str, run_ids))}}
        body = {"artifacts": artifacts, "sort": "CREATED_DESC", "limit": PAGE}
        found: list[dict[str, Any]] = self._ask("POST", "artifacts/filter", body)
        return found

    def waiting(self, run: JobRun) -> dict[str, Any] | None:
        """Return where a run waits and for what; see `gateway.prefect.waiting`."""
        return asyncio.run(waiting_for(self.asking(), run.value))

    def asking(self) -> AskApi:
        """Return a function that asks the API for plain JSON; what is not there is None."""

        async def ask(path: str, body: Json | None) -> Any:
            return self._find(path.lstrip("/"), body)

        return ask

    def logs(self, run_id: UUID, *, offset: int) -> list[dict[str, Any]]:
        """Return a page of a run's log records, the oldest first."""
        body = {
            "logs": {"flow_run_id": {"any_": [str(run_id)]}},
            "sort": "TIMESTAMP_ASC",
            "limit": PAGE,
            "offset": offset,
        }
        page: list[dict[str, Any]] = self._ask("POST", "logs/filter", body)
        return page

    def deployment(self, name: str) -> UUID | None:
        """Return the id of the deployment FLOW/NAME, or None if it does not exist."""
        found = self.deployment_facts(name)
        return UUID(found["id"]) if found else None

    def deployment_facts(self, name: str) -> dict[str, Any] | None:
        """Return all that the API says of a deployment FLOW/NAME, or None if it does not exist."""
        flow, _, own = name.partition("/")
        # The API would answer 422, or 404 for another path; no such deployment is what both mean.
        if not flow or not own or not name.isprintable():
            return None
        path = f"deployments/name/{quote(flow, safe='')}/{quote(own, safe='')}"
        # The name may hold a slash of its own: everything is quoted, and not only what a URL
        # forbids.
        found: dict[str, Any] | None = self._find(path)
        return found

    def work_pool(self, name: str) -> dict[str, Any] | None:
        """Return all that the API says of a work pool, or None if it does not exist."""
        found: dict[str, Any] | None = self._find(f"work_pools/{quote(name, safe='')}")
        return found

    def create_run(self, name: str, parameters: dict[str, Any]) -> UUID:
        """Create a run of the training flow, once, without executing it; return its id."""
        flow = self._ask("POST", "flows/", {"name": FLOW})
        body = {
            "flow_id": flow["id"],
            "name": name,
            "parameters": parameters,
            # Pending and not scheduled: a worker must not take a run that this computer executes.
            "state": {"type": "PENDING"},
            "idempotency_key": str(uuid4()),
        }
        return UUID(self._ask("POST", "flow_runs/", body)["id"])

    def set_state(self, run_id: UUID, type: str, *, force: bool = False, **state: Any) -> None:
        """Ask for a state of a run; Prefect may refuse it without an error, unless by force."""
        body = {"state": {"type": type, **state}, "force": force}
        self._ask("POST", f"flow_runs/{run_id}/set_state", body)

    def run_of_deployment(self, deployment: UUID, **values: Any) -> JobRun:
        """Create a run of a deployment: one, however often the request is sent.

        Args:
            deployment: its id.
            values: name, parameters and the like, as the API takes them.

        Raises:
            ConfigError: the deployment does not take these parameters.
        """
        # The key makes a request that is sent again, after its answer was lost, return the same
        # run.
        body = {"state": {"type": "SCHEDULED"}, "idempotency_key": str(uuid4()), **values}
        created = self._ask("POST", f"deployments/{deployment}/create_flow_run", body)
        return JobRun.of(created)

    def runs_of_deployment(self, deployment: UUID, runs: list[dict[str, Any]]) -> list[Any]:
        """Create up to 100 runs of a deployment in one call; return what became of each.

        The answer as a whole is one of success even where single runs were not created. Every run
        needs a key, so that it can be asked for again.
        """
        answer = self._ask("POST", f"deployments/{deployment}/create_flow_run/bulk", runs)
        results: list[Any] = answer.get("results", [])
        return results

    def set_states(
        self, run_ids: list[UUID], types: list[str], state: dict[str, Any], *, force: bool
    ) -> list[Any]:
        """Set the state of up to 50 runs in one call; return what became of each.

        Args:
            run_ids: which.
            types: those whose state is none of these types by now are left as they are.
            state: the new one.
            force: past Prefect's rules.
        """
        runs = {"id": {"any_": list(map(str, run_ids))}, "state": {"type": {"any_": types}}}
        body = {"flow_runs": runs, "state": state, "force": force}
        answer = self._ask("POST", "flow_runs/bulk_set_state", body)
        results: list[Any] = answer.get("results", [])
        return results


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
