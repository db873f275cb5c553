"""The training flow on machines of every provider: the same result, wherever it comes from."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from prefect import get_client

from blocks.home import artifacts
from blocks.keys import MachineKeys
from flows.execute import create_run
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from flows.shown import job_state
from tests.clouds.lambda_cloud import LambdaCloud
from tests.clouds.machines import SshdMachine
from tests.clouds.runpod import RunPodCloud
from tests.clouds.vast import VastCloud
from tests.flows.flow_runs import make_job
from trainer.config import TrainingJob
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify
from trainer.contract.metrics import read_metrics

pytestmark = [pytest.mark.usefixtures("prefect_api"), pytest.mark.slow]
CLOUDS = {"runpod": RunPodCloud, "lambda": LambdaCloud, "vast": VastCloud}


@pytest.fixture
def clouds(tmp_path, monkeypatch):
    """Run every cloud, and an owned host, and point the product at them."""
    with contextlib.ExitStack() as stack:
        found = {}
        for name, kind in CLOUDS.items():
            found[name] = cloud = stack.enter_context(kind(tmp_path / name))
            for variable, value in cloud.environ().items():
                monkeypatch.setenv(variable, value)
            if hasattr(cloud, "rates"):
                cloud.rates.factor = 0.0
        own = MachineKeys("own")
        host = stack.enter_context(SshdMachine(tmp_path / "host", public_keys=[own.public_key()]))
        monkeypatch.setenv("SSH_HOSTS", f"{host.user}@{host.address}:{host.port}")
        monkeypatch.setenv("SSH_KEY_FILE", str(own.private_key))
        yield found


@pytest.fixture
def trained(flow_process):
    """Return a function that executes jobs at once in one process, to their completion."""

    async def train(*jobs: TrainingJob) -> list[RunFolder]:
        runs = [await create_run(job) for job in jobs]
        output = await flow_process(*(run.id for run in runs)).ended()
        async with get_client() as client:
            for run in runs:
                found = await client.read_flow_run(run.id)
                assert job_state(found) is JobState.COMPLETED, output
        return [RunFolder(run.id) for run in runs]

    return train


def on(provider: str | list[str], **changes) -> TrainingJob:
    job = make_job(max_steps=20, eval_steps=10)
    return TrainingJob.model_validate({**job.model_dump(), "provider": provider, **changes})


def losses(run: RunFolder) -> dict[int, tuple[float | None, float | None]]:
    steps, _ = read_metrics(run.metrics)
    return {s: (r.get("train_loss"), r.get("eval_loss")) for s, r in steps.items()}


@pytest.mark.thorough
async def test_every_provider_trains_the_same_model(clouds, home, trained):
    runs = await trained(*(on(name) for name in ("local", "ssh", *CLOUDS)))

    reports = [read_json(run.report) for run in runs]
    assert len({report["sha256"] for report in reports}) == 1
    assert all(losses(run) == losses(runs[0]) for run in runs)
    for report in reports:
        verify(Path(report["path"]))
    assert [cloud.alive() for cloud in clouds.values()] == [[], [], []]
    assert not list((home / "keys").glob("to-*"))
    assert len(list(artifacts().iterdir())) == len(runs)


@pytest.mark.thorough
async def test_the_third_provider_trains_where_the_first_is_sold_out_and_the_second_never_boots(
    clouds, trained
):
    clouds["lambda"].no_capacity = True
    clouds["vast"].never_boot = True
    limits = {"boot_timeout_minutes": 0.05}

    [run] = await trained(on(["lambda", "vast", "runpod"], limits=limits))

    hires = Journal.of(run).hires
    assert [hire.provider for hire in hires] == sorted(
        (hire.provider for hire in hires), key=["lambda", "vast", "runpod"].index
    )
    assert {hire.provider: hire.cause.split(":")[0] for hire in hires} == {
        "lambda": "CapacityError",
        "vast": "BootError",
        "runpod": "completed",
    }
    assert all(hire.cost() > 0 for hire in hires if hire.provider != "lambda")
    assert [cloud.alive() for cloud in clouds.values()] == [[], [], []]
