"""A schedule of a real server makes runs, without anybody's doing."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from itertools import chain
from pathlib import Path
from uuid import uuid4

import pytest
from packaging.requirements import Requirement
from prefect import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.schedules import IntervalSchedule

from tests.waiting import until

ROOT = Path(__file__).parents[2]


@pytest.mark.usefixtures("prefect_api")
async def test_the_servers_scheduler_makes_runs_of_a_schedule():
    every_minute = DeploymentScheduleCreate(
        schedule=IntervalSchedule(interval=timedelta(minutes=1)), active=True
    )
    async with get_client() as client:
        flow_id = await client.create_flow_from_name(f"scheduled-{uuid4()}")
        deployment = await client.create_deployment(
            flow_id, name="every-minute", schedules=[every_minute]
        )

        async def runs():
            only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
            return await client.read_flow_runs(deployment_filter=only)

        first, *_ = await until(runs)
        await client.delete_deployment(deployment)

    assert first.auto_scheduled
    assert first.state is not None
    assert first.state.is_scheduled()


@pytest.mark.parametrize("broken", ["2.1.0", "2.1.9"])
def test_no_way_to_install_lets_in_what_breaks_the_scheduler(broken):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds = [one for one in map(Requirement, chain(*asked)) if one.name == "sqlalchemy"]

    assert "sqlalchemy" in {Requirement(line).name for line in project["dependencies"]}
    assert not any(one.specifier.contains(broken) or one.marker for one in bounds)
