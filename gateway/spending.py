"""What rented machines have cost and will, by the journals of this computer."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from blocks.registry import provider_class
from flows.renting.hire import HOUR, Hire
from flows.renting.journal import Journal
from flows.run_folder import RunFolder, run_folders
from flows.scheduling.administration import Administration
from flows.scheduling.labels import PROJECT, text
from flows.shown import FLOW, short_id
from gateway import jobs
from gateway.prefect.client import PAGE, JobRun, LightClient
from trainer.contract.errors import OrchestratorError

NOBODY = "(none)"
"""Whose what is that belongs to no project."""
DELETED = "(deleted)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What something has cost, and will have cost at its end. All in USD."""

    name: str
    spent: float
    per_hour: float
    """What is hired for it now."""
    seconds_left: float | None
    """None: not known yet."""
    expected: float | None
    """In the end; None: not known yet."""
    cap: float | None
    """None: there is none."""
    id: str = ""
    """Of a job."""

    @property
    def is_over(self) -> bool:
        """Whether it will be more than its cap."""
        expected = self.spent if self.expected is None else self.expected
        return self.cap is not None and expected > self.cap


def costs(client: Callable[[], LightClient], by: str) -> list[dict[str, Any]]:
    """Return what this installation's jobs cost.

    Args:
        client: returns one of Prefect, which only the names of jobs and projects need.
        by: job, provider, project or day.
    """
    found = list(_hires())
    known = runs_of(client(), {id for id, _ in found}) if by in {"job", "project"} else {}
    rows: dict[str, list[Hire]] = defaultdict(list)
    for id, hire in found:
        key = {"job": id, "provider": hire.provider, "day": hire.started_at[:10]}
        rows[_project(known.get(id)) if by == "project" else key[by]].append(hire)
    return [
        {
            by: _title(known, key) if by == "job" else key,
            "machines": sum(bool(hire.instance_id) for hire in hires),
            "refused": sum(not hire.instance_id for hire in hires),
            "hours": sum(hire.seconds() for hire in hires) / HOUR,
            "machine_usd": sum(hire.compute_cost() for hire in hires),
            "storage_usd": sum(hire.storage_cost() for hire in hires),
            "address_usd": sum(hire.beside_cost() for hire in hires),
            "traffic_usd": sum(hire.traffic_cost() for hire in hires),
            "usd": sum(hire.cost() for hire in hires),
        }
        for key, hires in sorted(rows.items())
    ]


def forecasts(client: LightClient) -> list[Forecast]:
    """Return what the jobs that have rented machines now will cost, the dearest first."""
    ids = {id for id, hire in _hires() if hire.is_open}
    known = runs_of(client, ids)
    steps = jobs.metrics(client, [run.id for run in known.values()])
    found = [_forecast(run, steps.get(run.id, {})) for run in known.values()]
    return sorted(found, key=lambda one: -(one.expected or one.spent))


def quotas(client: LightClient, running: Iterable[Forecast]) -> list[Forecast]:
    """Return what projects have cost within the period of their quota in USD, and will cost.

    Args:
        client: of Prefect.
        running: the forecasts of the jobs at work.
    """
    found = list(_hires())
    known = runs_of(client, {id for id, _ in found})
    ahead: dict[str, list[Forecast]] = defaultdict(list)
    for one in running:
        ahead[_project(known.get(one.id))].append(one)
    return [
        _of_project(
            f"{project}, {pool}",
            spent=sum(
                hire.cost()
                for id, hire in found
                if _project(known.get(id)) == project and _began(hire) > time.time() - period
            ),
            running=ahead[project],
            cap=cap,
        )
        for pool, project, cap, period in asyncio.run(_caps(client))
    ]


def _of_project(name: str, *, spent: float, running: list[Forecast], cap: float) -> Forecast:
    more = [one.expected - one.spent for one in running if one.expected is not None]
    left = [one.seconds_left for one in running if one.seconds_left is not None]
    return Forecast(
        name=name,
        spent=spent,
        per_hour=sum(one.per_hour for one in running),
        seconds_left=max(left, default=None),
        expected=spent + sum(more),
        cap=cap,
    )


async def _caps(client: LightClient) -> list[tuple[str, str, float, float]]:
    """Return pool, project, USD and the seconds within which they count, of every quota in USD."""
    ask = client.asking()
    pools = [str(one["name"]) for one in await ask("/work_pools/filter", {})]
    rules = await asyncio.gather(*(Administration(ask, pool).read() for pool in pools))
    return [
        (pool, project, quota.usd, one.settings.quota_period)
        for pool, one in zip(pools, rules, strict=True)
        for project, quota in one.settings.quotas.items()
        if quota.usd is not None
    ]


def _forecast(run: JobRun, steps: dict[int, Any]) -> Forecast:
    journal = Journal.of(RunFolder(run.id))
    spent, per_hour = journal.cost(), journal.price_per_hour()
    left = jobs.view(run, steps).eta_seconds
    limits = (run.parameters.get("job") or {}).get("limits") or {}
    return Forecast(
        id=str(run.id),
        name=run.name,
        spent=spent,
        per_hour=per_hour,
        seconds_left=left,
        expected=None if left is None else spent + per_hour * left / HOUR,
        cap=limits.get("max_cost"),
    )


def runs_of(client: LightClient, ids: Iterable[str]) -> dict[str, JobRun]:
    """Return the runs of these ids that Prefect still has, by id."""
    wanted = list(ids)
    found: dict[str, JobRun] = {}
    for start in range(0, len(wanted), PAGE):
        part = {"any_": wanted[start : start + PAGE]}
        found |= {str(run.id): run for run in client.flow_runs(FLOW, limit=PAGE, id=part)}
    return found


def _title(known: Mapping[str, JobRun], id: str) -> str:
    # Prefect may have forgotten the run; what it cost was paid all the same.
    return f"{known[id].name if id in known else DELETED} {short_id(id)}".strip()


def _project(run: JobRun | None) -> str:
    if run is None:
        return DELETED
    # Of one that was not submitted but run, the job alone says it.
    asked = (run.parameters.get("job") or {}).get("project")
    return text(run.labels, PROJECT) or asked or NOBODY


def _began(hire: Hire) -> float:
    return datetime.fromisoformat(hire.started_at).timestamp() if hire.started_at else 0.0


def _hires() -> Iterable[tuple[str, Hire]]:
    """Yield every order of a machine, with its run; a folder of this computer is not for hire."""
    for folder in run_folders():
        for hire in Journal.of(RunFolder(folder.name)).hires:
            if not _is_home(hire.provider):
                yield folder.name, hire


def _is_home(label: str) -> bool:
    try:
        return provider_class(label).is_home
    except OrchestratorError:  # a provider that is installed no longer: its bill was real
        return False
