"""A batch whose jobs are all at their end is an event, once for each time that it comes to that."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from prefect import get_client
from prefect.states import Cancelled, Completed, Running, Scheduled

from flows.batches import completion
from flows.batches.completion import NAME, tell_completed
from flows.batches.members import JOB, SKIPPED, TAG, tag_of
from flows.job_events.kinds import Happening, event_of, facts_of
from flows.job_events.spool import EventSpool
from flows.scheduling.labels import BATCH, USER
from flows.train import train
from tests.flows.flow_runs import make_job
from tests.flows.job_events.test_sending import until_stored

PARAMETERS = {"job": make_job().model_dump(mode="json")}


@pytest.mark.usefixtures("prefect_api")
async def test_a_batch_is_completed_once_and_once_more_when_it_was_retried(monkeypatch):
    monkeypatch.setattr(completion, "SETTLED", timedelta())
    monkeypatch.setattr(completion, "EVENTS", 1)  # pages of one
    batch, ids = uuid4().hex, dict[str, UUID]()
    async with get_client() as client:
        for job in ("base", "tuned"):
            run = await client.create_flow_run(
                train,
                parameters=PARAMETERS,
                tags=[TAG, tag_of(batch)],
                state=Scheduled(),
            )
            labels = {BATCH: batch, JOB: job, USER: "ada"}
            await client.update_flow_run_labels(run.id, labels)
            ids[job] = run.id

        async def told() -> list[dict]:
            await tell_completed(client)
            await until_stored(EventSpool.of_waiting())
            wanted = {"resource": {"id": [f"training-orchestrator.batch.{batch}"]}, "order": "ASC"}
            wanted |= {"event": {"name": [NAME]}}
            answer = await client.request("POST", "/events/filter", json={"filter": wanted})
            return answer.json()["events"]

        async def ended(job: str, *states) -> None:
            for state in states:
                await client.set_flow_run_state(ids[job], state, force=True)
            run = await client.read_flow_run(ids[job])
            event = event_of(
                facts_of(run),
                Happening.COMPLETED,
                rests=0,
                at=datetime.now(UTC),
                gpu_seconds=30.0,
                cost_usd=0.5,
            )
            spool = EventSpool.of(str(run.id))
            spool.change(lambda noted: noted.add(event))
            await until_stored(spool)

        assert await told() == []
        await ended("base", Running(), Completed())
        assert await told() == []
        skipped = Cancelled(name=SKIPPED, message="never")
        await client.set_flow_run_state(ids["tuned"], skipped, force=True)
        (first,) = await told()
        assert await told() == [first]
        payload = first["payload"]
        assert (payload["completed"], payload["skipped"], payload["failed"]) == (1, 1, 0)
        assert payload["jobs"] == {name: str(id) for name, id in ids.items()}
        assert (payload["user"], payload["gpu_seconds"], payload["cost_usd"]) == ("ada", 30.0, 0.5)
        await ended("tuned", Scheduled(), Running(), Completed())
        again = await told()
        assert len(again) == 2
        assert again[1]["payload"]["completed"] == 2
        assert again[1]["payload"]["gpu_seconds"] == 60.0
