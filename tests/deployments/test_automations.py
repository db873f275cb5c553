"""The automations that are shipped do on a real server what they say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, get_client
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId

from deployments.automations import deploy_automations
from flows.job_events.kinds import Happening, event_of, facts_of
from flows.job_events.sending import send
from flows.job_events.spool import EventSpool
from flows.scheduling.labels import PROJECT
from tests.flows.flow_runs import EXAMPLES
from tests.flows.job_events.test_noting import a_run
from tests.flows.test_on_completion import deploy
from tests.receivers import web_receiver
from tests.waiting import until
from trainer.contract.errors import ConfigError

SHIPPED = EXAMPLES / "automations"


@flow
def retrain(job: dict[str, Any]) -> None:
    """Take what the example gives to train/local."""


async def tell(what: Happening, run, **payload) -> None:
    spool = EventSpool.of(str(run.id))
    event = event_of(facts_of(run), what, rests=0, at=datetime.now(UTC), **payload)
    spool.change(lambda noted: noted.add(event))
    await send(spool, hurry=True)


@pytest.mark.usefixtures("prefect_api")
async def test_what_comes_after_a_completed_job_of_a_project_gets_its_output(tmp_path: Path):
    deployment, project = await deploy(retrain), uuid4().hex
    text = (SHIPPED / "train-on-completed.yaml").read_text()
    # To a deployment of the test's own: others of the same server have train/local.
    text = text.replace("name: align the handbook", f"name: {project}")
    text = text.replace("train/local", deployment)
    text = text.replace("project: handbook\n", f"project: {project}\n")
    file = tmp_path / "one.yaml"
    file.write_text(text)
    said: list[str] = []
    async with get_client() as client:
        for _ in range(2):
            await deploy_automations(client, tmp_path, said.append)
        file.write_text(text.replace("description: sft", "description: Sft"))
        await deploy_automations(client, file, said.append)
        assert [line.split()[0] for line in said] == ["created", "kept", "updated"]
        found = await client.read_deployment_by_name(deployment)
        mine = DeploymentFilter(id=DeploymentFilterId(any_=[found.id]))
        await tell(Happening.COMPLETED, a_run(**{PROJECT: "another"}), output="/no")

        async def started():
            # Prefect reads new automations every now and then; until then it passes events over.
            await tell(Happening.COMPLETED, a_run(**{PROJECT: project}), output="/the/result")
            return await client.read_flow_runs(deployment_filter=mine)

        runs = await until(started)
        assert {run.parameters["job"]["training"]["model"] for run in runs} == {"/the/result"}
        (automation,) = await client.read_automations_by_name(project)
        await client.delete_automation(automation.id)


@pytest.mark.thorough
@pytest.mark.usefixtures("prefect_api")
async def test_a_pool_where_jobs_fail_is_paused(tmp_path: Path):
    name = uuid4().hex
    text = (SHIPPED / "pause-on-failures.yaml").read_text()
    (tmp_path / "one.yaml").write_text(text.replace("pause a pool where jobs fail", name))
    async with get_client() as client:
        pool = await client.create_work_pool(WorkPoolCreate(name=name, type="process"))
        await deploy_automations(client, tmp_path, lambda _: None)

        async def paused() -> bool:
            run = a_run()
            run.work_pool_id, run.work_pool_name = pool.id, name
            await tell(Happening.FAILED, run)
            return (await client.read_work_pool(name)).is_paused

        await until(paused)
        (automation,) = await client.read_automations_by_name(name)
        await client.delete_automation(automation.id)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "name: a\ntrigger: {type: event}\nactions: [{type: run-deployment, deployment: x/y}]",
            "x/y",
        ),
        ("name: a\nactions: []", "trigger"),
        ("- 1", "is not an automation"),
    ],
)
@pytest.mark.usefixtures("prefect_api")
async def test_a_file_that_is_wrong_is_refused_with_the_field(tmp_path: Path, text, words):
    (tmp_path / "one.yaml").write_text(text)
    async with get_client() as client:
        with pytest.raises(ConfigError, match=words):
            await deploy_automations(client, tmp_path, lambda _: None)
        (tmp_path / "empty").mkdir()
        with pytest.raises(ConfigError, match=r"holds no .yaml"):
            await deploy_automations(client, tmp_path / "empty", lambda _: None)


TELLS = """
name: {name}
trigger:
  type: event
  posture: Reactive
  expect: [training-orchestrator.job.failed]
  match: {{prefect.resource.id: prefect.flow-run.{run}}}
  threshold: 1
actions:
  - type: send-notification
    block: custom-webhook/{name}
    subject: "{{{{ event.payload.job.name }}}} has failed"
    body: "{{{{ event.payload.reason }}}}"
"""


@pytest.mark.usefixtures("prefect_api")
async def test_prefect_tells_people_by_a_block_that_is_named(tmp_path: Path):
    name, run, file = f"hook-{uuid4().hex}", a_run(), tmp_path / "tell.yaml"
    file.write_text(TELLS.format(name=name, run=run.id))
    with web_receiver() as web:
        async with get_client() as client:
            with pytest.raises(ConfigError, match="Prefect has no such block"):
                await deploy_automations(client, file, print)
            json = {"subject": "{{subject}}", "body": "{{body}}"}
            block = CustomWebhookNotificationBlock(
                name=name, url=web.url, json_data=json, allow_private_urls=True
            )
            await block.save(name)
            await deploy_automations(client, file, print)
            await tell(Happening.FAILED, run, reason="The loss was NaN.")
        await until(lambda: web.requests)

    assert web.requests[0].json["subject"] == f"{run.name} has failed"
    assert "The loss was NaN." in web.requests[0].json["body"]
