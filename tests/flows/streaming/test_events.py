"""What happens to a job is an event of Prefect, once, whoever reads the file again."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from prefect import get_client
from prefect.events.worker import EventsWorker

from flows.run_folder import RunFolder
from flows.streaming.events import Events
from tests.waiting import PATIENCE
from trainer.contract.events import Kind, note_event
from trainer.contract.job_directory import JobDirectory

MESSAGE = "the loss rose to 9; before it was about 1.2"


async def stored(resource: str) -> list[dict[str, Any]]:
    wanted = {"filter": {"resource": {"id": [resource]}}}
    async with get_client() as client:
        answer = await client._client.post("/events/filter", json=wanted)
    answer.raise_for_status()
    return list(answer.json()["events"])


async def test_each_event_of_the_job_is_stored_once(prefect_api):
    run = RunFolder(run_id := uuid4())
    job = JobDirectory(run.root)
    assert job.events == run.events
    Events(run_id, run).look()  # of a job without any
    note_event(job, Kind.LOSS_SPIKE, MESSAGE, step=32, loss=9.0)
    note_event(job, Kind.RESTART, "restart 1 of 2", step=40, restarts=1)
    whole = run.events.read_bytes()
    run.events.write_bytes(whole[:-20])
    Events(run_id, run).look()
    with run.events.open("ab") as file:
        file.write(whole[-20:])
    note_event(
        job, Kind.LOSS_SPIKE, MESSAGE, step=32, loss=9.0
    )  # a resumed training is there again
    note_event(job, Kind.RESTART, "restart 1 of 2", step=40, restarts=1)  # and killed again

    await asyncio.to_thread(EventsWorker.drain_all)  # as the process before this one did
    later = Events(run_id, run)
    later.look()
    later.look()
    await asyncio.to_thread(EventsWorker.drain_all)

    resource = f"prefect.flow-run.{run_id}"
    async with asyncio.timeout(PATIENCE):
        while len(found := await stored(resource)) < 3:
            # Prefect's client may lose its connection, and with it what it was sending; the next
            # process sends all again.
            Events(run_id, run).look()
            await asyncio.to_thread(EventsWorker.drain_all)
            await asyncio.sleep(0.1)
    told = {event["event"]: event["payload"] for event in found}
    assert len(found) == 3
    assert told["training-orchestrator.loss_spike"] == {
        "step": 32,
        "message": MESSAGE,
        "facts": {"loss": 9.0},
    }
    assert told["training-orchestrator.restart"]["facts"] == {"restarts": 1}
