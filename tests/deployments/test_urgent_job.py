"""An urgent job has the GPU of a lesser one within a minute, which loses no step and learns the same."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from blocks.home import runs
from flows.scheduling.labels import of_submit
from flows.scheduling.settings import variable_of
from flows.variables import write_variable
from tests.deployments.training_site import TrainingSite, training_site
from tests.flows.flow_runs import Job, make_job
from tests.flows.test_two_machines import losses
from tests.waiting import until

pytestmark = [
    pytest.mark.usefixtures("prefect_api"),
    pytest.mark.thorough,
    pytest.mark.timeout(900),  # two trainings, and a third to compare with
]
LONG = {"max_steps": 200, "eval_steps": 100, "save_steps": 50}
URGENT_SECONDS = 60.0  # on a computer that has nothing else to do


async def submitted(site: TrainingSite, priority: int, **training: int) -> uuid.UUID:
    values = make_job(**training).model_dump(mode="json") | {"priority": priority}
    run = await site.client.create_flow_run_from_deployment(
        site.deployment, parameters={"job": values}, labels=of_submit(user="ada")
    )
    return run.id


def trained_undisturbed(folder: Path) -> Path:
    folder.mkdir()
    config = make_job(**LONG).training.model_dump(mode="json")
    (folder / "job.json").write_text(json.dumps({"config": config}))
    subprocess.run([sys.executable, "-m", "trainer", folder], check=True, capture_output=True)
    return folder / "metrics.jsonl"


async def test_an_urgent_job_starts_within_a_minute_and_the_one_that_made_room_learns_the_same(
    home, tmp_path
):
    async with training_site() as site:
        await write_variable(site.client, variable_of(site.pool), {"min_run": 0})
        with site.worker(tmp_path / "worker.log", limit=1):
            first = await submitted(site, 20, **LONG)
            await Job(home, first).at_step(5)
            began = time.monotonic()
            urgent = await submitted(site, 100, max_steps=5, eval_steps=5, save_steps=5)
            await Job(home, urgent).at_step(1)
            took = time.monotonic() - began
            rested = await until(lambda: site.is_named(first, "Queued", "Completed"))
            assert rested.name == "Queued"
            for id in (urgent, first):
                await until(lambda id=id: site.is_named(id, "Completed"))
    alone = await asyncio.to_thread(trained_undisturbed, tmp_path / "alone")

    assert losses(runs() / str(first) / "metrics.jsonl") == losses(alone)
    assert took <= URGENT_SECONDS * max(1.0, os.getloadavg()[0] / 2)
