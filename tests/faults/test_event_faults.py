"""Each event of a job reaches Prefect once, and what comes after a job starts once, whatever happens."""

from __future__ import annotations

from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

from flows.job_events.sending import send_leftovers
from flows.job_events.spool import EventSpool, unfinished
from tests.clouds.proxy import Proxy
from tests.flows.flow_runs import of_stand_in
from tests.flows.job_events.test_sending import stored
from tests.flows.test_on_completion import deploy, evaluate
from tests.stand_in import stand_in
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.job_directory import JobState

pytestmark = [pytest.mark.thorough, pytest.mark.parametrize("scene", ["local"], indirect=True)]
ONCE = ["submitted", "started", "completed"]


def job_before(deployment: str, folder, *words: object) -> TrainingJob:
    wanted = {
        "deployment": deployment,
        "parameters": {"model": "${job.output}", "threshold": 0.5},
    }
    job = of_stand_in(stand_in(folder, *words)).model_dump()
    return TrainingJob.model_validate({**job, "on_completion": wanted})


async def names(run_id) -> list[str]:
    return [event["event"].rpartition(".")[2] for event in await stored(run_id)]


async def all_stored() -> None:
    async def nothing_left() -> bool:
        await send_leftovers()
        return not unfinished()

    await until(nothing_left)


async def runs_of(deployment: str) -> list:
    async with get_client() as client:
        found = await client.read_deployment_by_name(deployment)
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        return await client.read_flow_runs(deployment_filter=mine)


@pytest.mark.fault(143, "flow killed around its events")
async def test_a_flow_killed_at_its_start_in_its_training_and_at_its_end_tells_each_thing_once(
    scene, tmp_path
):
    deployment = await deploy(evaluate)
    go = tmp_path / "go"
    job = job_before(deployment, tmp_path, "--steps", 8, "--hold", 4, "--go", go)
    run = await scene.run(job)
    spool = EventSpool.of(str(run.id))
    folder = spool.file.parent
    # When something is noted, and before it can be known whether Prefect took it.
    await until(lambda: spool.read().events)
    scene.kill()
    scene.again(run)
    await until(lambda: spool.read().began)
    scene.kill()
    scene.again(run)
    await scene.at_step(run, 4)
    go.touch()
    await until((folder / "report.json").exists)
    scene.kill()
    scene.again(run)
    await until(lambda: len(spool.read().events) == len(ONCE))
    scene.kill()
    scene.again(run)

    assert await scene.ended(run) is JobState.COMPLETED
    await all_stored()
    assert sorted(await names(run.id)) == sorted(ONCE)
    (following,) = await runs_of(deployment)
    assert following.parameters["threshold"] == 0.5
    assert following.parameters["model"].endswith(str(run.id)[-8:])


@pytest.mark.fault(144, "Prefect away while things happen")
async def test_what_happens_while_prefect_is_away_is_told_once_when_it_is_back(
    scene, tmp_path, prefect_api, monkeypatch
):
    deployment = await deploy(evaluate)
    address = urlsplit(prefect_api)
    proxy = Proxy(str(address.hostname), int(address.port or 0))
    await proxy.start()
    try:
        with monkeypatch.context() as patch:
            patch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{proxy.port}/api")
            go = tmp_path / "go"
            job = job_before(deployment, tmp_path, "--steps", 8, "--hold", 4, "--go", go)
            run = await scene.run(job)
            spool = EventSpool.of(str(run.id))
            await until(lambda: spool.read().facts)
            proxy.refuse()
            proxy.cut()
            await scene.at_step(run, 4)
            await until(lambda: spool.read().began)
            assert len(spool.read().waiting) >= 1
            proxy.accept()
            await until(lambda: not spool.read().waiting)
            proxy.refuse()
            proxy.cut()
            go.touch()
            await until((spool.file.parent / "report.json").exists)
            scene.kill()  # its end is not told
            scene.again(run)
            proxy.accept()
            assert await scene.ended(run) is JobState.COMPLETED
        await all_stored()
        assert sorted(await names(run.id)) == sorted(ONCE)
        assert len(await runs_of(deployment)) == 1
    finally:
        await proxy.close()


@pytest.mark.fault(144, "Prefect away while things happen")
async def test_a_job_whose_deployment_is_missing_is_refused_before_it_trains(scene, tmp_path):
    run = await scene.run(job_before(f"evaluate/{uuid4()}", tmp_path))
    assert await scene.ended(run) is JobState.FAILED
    assert "no such deployment" in (await scene.read(run)).state.message
    assert scene.step(run) == -1
    await all_stored()
    assert await names(run.id) == ["submitted", "failed"]
