"""A real flow reports a real training, whatever its receiver does meanwhile."""

from __future__ import annotations

import pytest
from prefect import get_client
from prefect.states import Cancelling

from flows.execute import create_run
from flows.shown import job_state
from tests.flows.flow_runs import Job, make_job
from tests.flows.reporting.receiver import KEY, TOKEN
from tests.waiting import until
from trainer.contract.job_directory import JobState
from trainer.contract.metrics import read_metrics

pytestmark = [pytest.mark.usefixtures("prefect_api"), pytest.mark.thorough]


async def state_of(run_id) -> JobState:
    async with get_client() as client:
        return job_state(await client.read_flow_run(run_id))


async def test_a_receiver_down_for_the_first_half_and_a_killed_flow_cost_no_report(
    home, flow_process, receiver
):
    run = await create_run(make_job(max_steps=150, eval_steps=50))
    job = Job(home, run.id)
    first = flow_process(run.id)
    await job.at_step(30)
    first.kill()
    second = flow_process(run.id)
    await job.at_step(75)
    receiver.start()
    said = await second.ended()

    assert await state_of(run.id) is JobState.COMPLETED, said
    steps, _ = read_metrics(job.mirror / "metrics.jsonl")
    assert receiver.steps == list(steps)
    assert [p["train_loss"] for p in receiver.points if p["step"]] == [
        record["train_loss"] for step, record in steps.items() if step
    ]
    evaluated = {p["step"]: p["eval_loss"] for p in receiver.points if "eval_loss" in p}
    assert evaluated == {s: r["eval_loss"] for s, r in steps.items() if "eval_loss" in r}
    assert receiver.types == ["job_started", "job_completed"]
    assert receiver.alerts[0]["total_steps"] == receiver.alerts[1]["current_step"] == 150
    assert receiver.alerts[1]["duration"] > 1000
    written = said.encode() + b"".join(p.read_bytes() for p in home.rglob("*") if p.is_file())
    assert TOKEN.encode() not in written
    assert KEY.encode() not in written


async def test_cancelled_and_failed_flows_say_so(home, flow_process, receiver):
    receiver.start()
    run = await create_run(make_job(max_steps=2000))
    flow = flow_process(run.id)
    await Job(home, run.id).at_step(12)
    async with get_client() as client:
        await client.set_flow_run_state(run.id, Cancelling())
    await flow.ended()
    wrong = await create_run(make_job(optim="adamm"))
    await flow_process(wrong.id).ended()

    assert receiver.types == ["job_started", "job_cancelled", "job_failed"]
    assert receiver.alerts[1]["error_message"].startswith("cancelled; saved at step ")
    assert receiver.alerts[1]["current_step"] >= 12
    assert receiver.alerts[2]["job_id"] == str(wrong.id)
    assert receiver.alerts[2]["error_type"] == "ConfigError"
    await until(lambda: receiver.points)
