"""A whole job whose data, model, checkpoints and result are in a store."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect import get_client

from blocks.stores.opening import open_bucket
from blocks.stores.store import Store
from flows.execute import create_run
from flows.run_folder import RunFolder
from flows.shown import job_state
from tests.flows.flow_runs import EXAMPLES, make_job
from trainer.config import TrainingJob
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobState
from trainer.contract.manifest import verify

pytestmark = [pytest.mark.usefixtures("prefect_api"), pytest.mark.slow, pytest.mark.thorough]


async def test_a_job_here_reads_from_a_store_and_keeps_its_result_there(
    s3, home, flow_process, tmp_path
):
    bucket = await open_bucket("s3://models")
    for path in [*(EXAMPLES / "tiny-llama").iterdir(), EXAMPLES / "quickstart.jsonl"]:
        await bucket.put(f"data/{path.name}", path.read_bytes())
    small = make_job(max_steps=20, eval_steps=10, model="s3://models/data").model_dump()
    small["training"]["dataset"]["path"] = "s3://models/data/quickstart.jsonl"
    job = TrainingJob.model_validate({**small, "store": "s3://models/team"})

    run = await create_run(job)
    output = await flow_process(run.id).ended()

    async with get_client() as client:
        assert job_state(await client.read_flow_run(run.id)) is JobState.COMPLETED, output
    report = read_json(RunFolder(run.id).report)
    assert report["store"] == f"s3://models/team/runs/{run.id}/output"
    assert "the artifact is in s3://models/team" in output
    store = Store(await open_bucket("s3://models/team"))
    assert await store.names("runs") == [f"runs/{run.id}/output"]
    await store.get_folder(f"runs/{run.id}/output", tmp_path / "back")
    assert verify(tmp_path / "back") == verify(Path(report["path"]))
    assert report["job"]["training"]["model"] == "s3://models/data"
