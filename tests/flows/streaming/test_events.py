"""What the log tells of as an event is an event of Prefect, once, whoever reads the log again."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

from prefect import get_client
from prefect.events.worker import EventsWorker

from flows.run_folder import RunFolder
from flows.streaming.events import Events
from trainer.contract.metrics import event_line

MESSAGE = "the loss rose to 9; before it was about 1.2"
SPIKE = event_line(32, {"kind": "loss_spike", "message": MESSAGE}) + "\n"
PLATEAU = event_line(90, {"kind": "loss_plateau", "message": "it has not fallen"}) + "\n"


async def stored(resource: str) -> list[dict[str, Any]]:
    wanted = {"filter": {"resource": {"id": [resource]}}}
    async with get_client() as client:
        answer = await client._client.post("/events/filter", json=wanted)
    answer.raise_for_status()
    return list(answer.json()["events"])


async def test_each_event_in_the_log_is_stored_once(prefect_api):
    run = RunFolder(run_id := uuid4())
    run.log.write_text("step 1/9  loss 2.1\n" + SPIKE + PLATEAU[:20])
    Events(run_id, run).look()
    with run.log.open("a") as log:
        log.write(PLATEAU[20:])

    await asyncio.to_thread(EventsWorker.drain_all)  # as the process before this one did
    later = Events(run_id, run)
    later.look()
    later.look()
    await asyncio.to_thread(EventsWorker.drain_all)

    resource = f"prefect.flow-run.{run_id}"
    async with asyncio.timeout(30):
        while len(found := await stored(resource)) < 2:
            await asyncio.sleep(0.1)
    told = {event["event"]: event["payload"] for event in found}
    assert len(found) == 2
    assert told["training-orchestrator.loss_spike"] == {
        "step": 32,
        "message": MESSAGE,
    }
    assert told["training-orchestrator.loss_plateau"]["step"] == 90
