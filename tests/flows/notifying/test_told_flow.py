"""A real flow tells a real webhook of its job, and dies without losing a message."""

from __future__ import annotations

import pytest
from prefect import get_client

from flows.execute import create_run
from flows.notifying.delivering import deliver_waiting
from flows.notifying.outbox import outboxes
from flows.scheduling.labels import USER
from tests.flows.flow_runs import of_stand_in
from tests.flows.notifying.conftest import tells
from tests.stand_in import stand_in
from tests.waiting import until
from trainer.config.notifications import Notifications

pytestmark = pytest.mark.usefixtures("prefect_api", "warm_trainers")


@pytest.mark.slow
@pytest.mark.thorough
async def test_a_job_is_told_with_numbers_and_link(home, flow_process, hook, tmp_path):
    tells(users={"ada": {"to": [{"to": f"{hook.url}/ada", "key": "HOOK_KEY"}]}})
    own = {"to": [{"to": f"{hook.url}/own", "key": "HOOK_KEY"}], "group_seconds": 0}
    job = of_stand_in(stand_in(tmp_path, "--steps", 20))
    job = job.model_copy(update={"notifications": Notifications.model_validate(own)})
    run = await create_run(job)
    async with get_client() as client:
        await client.update_flow_run_labels(run.id, {USER: "ada"})

    said = await flow_process(run.id).ended()
    await deliver_waiting()

    events = [e for one in hook.requests if one.path == "/own" for e in one.json["events"]]
    assert [event["what"] for event in events] == ["started", "completed"], said
    assert events[1]["step"] == "20 of 20"
    assert events[1]["train_loss"] == 0.05
    assert events[1]["link"].endswith(f"/runs/flow-run/{run.id}")
    assert events[1]["job"] == {**events[1]["job"], "id": str(run.id), "user": "ada"}
    assert {one.path for one in hook.requests} >= {"/own", "/ada"} or outboxes()


@pytest.mark.thorough
async def test_what_a_killed_flow_had_noted_is_told_by_the_next(home, flow_process, hook, tmp_path):
    go = tmp_path / "go"
    training = stand_in(tmp_path, "--steps", 20, "--hold", 10, "--go", go)
    run = await create_run(of_stand_in(training))
    hook.next.extend([503] * 1000)  # nothing is taken while the first one lives
    first = flow_process(run.id)
    await until(lambda: hook.requests)
    first.kill()
    hook.next.clear()
    refused = len(hook.requests)
    go.touch()
    await flow_process(run.id).ended()

    async def all_told() -> bool:
        await deliver_waiting()
        return not outboxes()

    await until(all_told)
    taken = [e["what"] for one in hook.requests[refused:] for e in one.json["events"]]
    assert taken == ["started", "completed"]
