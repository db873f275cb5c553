"""The job's store is away, slow, refuses, holds what is damaged; or the machine is lost beside it."""

from __future__ import annotations

import shutil
import threading

import pytest
from prefect import get_client

from blocks.home import home
from blocks.stores.opening import open_bucket
from flows.run_folder import RunFolder
from flows.saved import stored_steps
from gateway.control import ask_cancel
from tests.clouds.s3 import SECRET
from tests.clouds.store_wire import StoreFault
from tests.faults.scene import MEDIUM
from tests.faults.test_run_faults_machine import SHORT_LEASE
from tests.flows.flow_runs import EXAMPLES
from tests.waiting import until
from trainer.config import TrainingJob
from trainer.contract.checkpoints import all_checkpoints
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobState

pytestmark = [pytest.mark.slow, pytest.mark.thorough]
STORE = "s3://models/team"


def log(scene) -> str:
    return (scene.folder / "flow.log").read_text()


def result_of(run, s3) -> dict:
    """Return the report, after seeing that the result is in the store."""
    report = read_json(RunFolder(run.id).report)
    assert report["store"] == f"{STORE}/runs/{run.id}/output"
    assert s3.content(f"team/runs/{run.id}/output/MANIFEST.json")
    assert s3.content(f"team/objects/{report['sha256']}")
    return report


@pytest.mark.fault(80, "machine lost, with a store")
async def test_the_next_machine_reads_its_checkpoint_from_the_store(scene, survived, s3):
    run = await scene.run(scene.job(**MEDIUM, store=STORE))
    await scene.said(r"checkpoint-\d+ is in s3://models/team")

    scene.injected(run)
    scene.cloud.preempt(scene.cloud.alive()[0])

    await survived(run)
    assert "of s3://models/team" in await said_before(scene, "continuing from checkpoint-")
    # Not one of them came home.
    assert all_checkpoints(RunFolder(run.id).checkpoints) == []
    assert "is home" not in log(scene)
    result_of(run, s3)
    # No key left home, and what permitted anything on the machine is gone.
    there = [path for path in scene.directory(run).root.rglob("*") if path.is_file()]
    for secret in (SECRET.encode(), b"X-Amz-Signature"):
        assert [path for path in there if secret in path.read_bytes()] == []
    # Checkpoints of a completed job are taken out; what they shared with the result stays.
    assert [name for name in s3.names() if "checkpoint-" in name] == []


async def said_before(scene, words: str) -> str:
    return next(line for line in log(scene).splitlines() if words in line)


@pytest.mark.fault(81, "store refuses half-way")
async def test_a_store_that_refuses_while_it_is_written_to_costs_no_step(scene, survived, s3):
    # The first checkpoint gets there; then the key is taken away. Each stays on its machine for
    # longer than it takes to find that the store refuses it.
    seldom = {"max_steps": 600, "eval_steps": 300, "save_steps": 100}
    run = await scene.run(scene.job(**seldom, store=STORE))
    await scene.said(r"checkpoint-\d+ is in s3://models/team")

    scene.injected(run, "comes? home|is home")
    s3.denied = {"PUT"}
    await scene.said(r"checkpoint-\d+ is home")
    s3.denied = set()

    await survived(run)
    result_of(run, s3)


@pytest.mark.fault(82, "store slow to the point of silence")
async def test_a_store_that_never_answers_holds_up_neither_training_nor_the_end(
    scene, survived, s3
):
    hold = threading.Event()
    s3.faults.append(StoreFault("PUT", "/objects/", times=1, hold=hold))
    run = await scene.run(scene.job(**MEDIUM, store=STORE))
    await scene.at_step(run, MEDIUM["save_steps"] + 1)

    scene.injected(run, "store|home")
    await scene.at_step(run, MEDIUM["max_steps"])
    hold.set()

    await survived(run)
    result_of(run, s3)


@pytest.mark.fault(83, "flipped bit in the store")
async def test_a_damaged_checkpoint_in_the_store_is_passed_over(scene, survived, s3):
    run = await scene.run(scene.job(**MEDIUM, store=STORE))
    for _ in range(2):
        await scene.said(r"checkpoint-\d+ is in s3://models/team")
    newest = stored_steps(RunFolder(run.id))[0]
    for name in [name for name in s3.names() if "/objects/" in name]:
        if len(s3.content(name) or b"") > 100_000 and newest:
            s3.flip(name)

    scene.injected(run, "cannot be used")
    scene.cloud.preempt(scene.cloud.alive()[0])

    await survived(run)
    assert "arrived with another SHA-256" in log(scene)
    assert "IntegrityError" not in log(scene)


@pytest.mark.fault(84, "killed beside the store")
async def test_a_flow_that_dies_while_the_machine_writes_to_the_store_goes_on(scene, survived, s3):
    hold = threading.Event()
    fault = StoreFault("PUT", "/objects/", times=1, hold=hold)
    s3.faults.append(fault)
    run = await scene.run(scene.job(**MEDIUM, store=STORE))
    await scene.at_step(run, MEDIUM["save_steps"] + 1)
    while not fault.began.is_set():
        await scene.at_step(run, scene.step(run) + 1)

    scene.kill()
    scene.injected(run)
    # No manifest, no checkpoint.
    assert [name for name in s3.names() if name.endswith("MANIFEST.json")] == []
    hold.set()
    scene.again(run)

    await survived(run)
    result_of(run, s3)


@pytest.mark.fault(149, "data never readable, machine paid for")
async def test_a_machine_is_given_back_while_a_store_keeps_its_data_back(scene, survived, s3):
    data, key = (EXAMPLES / "quickstart.jsonl").read_bytes(), "data/rows.jsonl"
    bucket = await open_bucket("s3://models")
    await bucket.put(key, data)
    asked = scene.job(max_steps=2000, limits=SHORT_LEASE).model_dump()
    asked["training"]["dataset"]["path"] = f"s3://models/{key}"
    plain, changing = s3.answer, []

    def answer(request):
        said = plain(request)
        if changing and request.method == "GET" and request.path.endswith(key):
            # Another version each time that it is read: what was fetched is of no use.
            found = s3._object(key)
            found.value, found._etag = data + b"\n" * len(s3.asked), None
        return said

    s3.answer = answer
    run = await scene.run(TrainingJob.model_validate(asked))
    await scene.said("is ready after")
    shutil.rmtree(home() / "staged")
    await bucket.put(key, data + b"\n")
    changing.append(True)

    scene.injected(run, "changed while it was fetched")
    await scene.said("given back until the data can be read")
    await until(lambda: scene.cloud.alive() == [])
    changing.clear()
    await scene.said("started the training")
    async with get_client() as client:
        await ask_cancel(client, await client.read_flow_run(run.id))

    await survived(run, JobState.STOPPED)
    assert len(scene.cloud.account) == 2
