"""Jobs watched over WebSockets and Server-Sent Events, with a real Prefect and a real server."""

from __future__ import annotations

import asyncio
import json
import uuid

import httpx
import pytest
import websockets
from prefect import flow, get_client
from prefect.states import Completed, Failed, Running

from flows.run_folder import RunFolder
from flows.shown import TRAINS
from gateway.rest.application import create_app
from gateway.rest.settings import ServiceSettings
from tests.gateway.streams.conftest import serving
from tests.waiting import until


@flow(name="train")
def train():
    """Stands for the training flow: nothing of it runs here."""


@pytest.fixture
async def run(prefect_api):
    async with get_client() as client:
        return RunFolder((await client.create_flow_run(train)).id)


async def set_state(run, state):
    async with get_client() as client:
        await client.set_flow_run_state(run.run_id, state, force=True)


def line(step, **more):
    return json.dumps({"step": step, "train_loss": 1 / (1 + step), **more}) + "\n"


async def next_of(socket, wanted):
    """Return the next message of a type; those before are passed over."""
    while True:
        message = json.loads(await socket.recv())
        if message["type"] == wanted:
            return message


async def test_metrics_status_and_notification_as_the_document_writes_them(served, run):
    async with websockets.connect(served.websocket(run.run_id)) as socket:
        first = json.loads(await socket.recv())
        run.metrics.write_text(line(1000, learning_rate=0.0002))
        metrics = await next_of(socket, "metrics")
        await set_state(run, Completed())
        status = await next_of(socket, "status")
        notification = await next_of(socket, "notification")

    assert (first["type"], first["data"]["state"]) == ("status", "created")
    assert metrics["data"] == {
        "step": 1000,
        "loss": 1 / 1001,
        "train_loss": 1 / 1001,
        "learning_rate": 0.0002,
    }
    assert status["data"]["state"] == "completed"
    assert status["data"]["completed_at"].endswith("Z")
    assert notification["data"]["title"] == "Training Complete!"
    assert notification["data"]["message"] == "Your model training has finished successfully."


async def test_a_client_that_comes_back_gets_all_that_it_missed(served, run):
    async with websockets.connect(served.websocket(run.run_id)) as socket:
        run.metrics.write_text(line(1) + line(2))
        await until(lambda: served.streams.clients == 1)
        while (last := await next_of(socket, "metrics"))["data"]["step"] < 2:
            pass
    cursor = last["cursor"]

    with run.metrics.open("a") as stream:
        stream.write(line(2, eval_loss=0.5) + line(3))
    await set_state(run, Running(message=TRAINS))
    await set_state(run, Failed(message="Memory ran out."))
    await until(lambda: _steps(served, run, 3))
    async with websockets.connect(served.websocket(run.run_id, f"?after={cursor}")) as socket:
        messages = [json.loads(await socket.recv()) for _ in range(6)]

    said = [m["data"].get("state") or m["data"].get("title") or m["data"]["step"] for m in messages]
    assert said == ["running", "Training started", "failed", "Training failed", 2, 3]
    assert messages[3]["data"]["message"] == "Memory ran out."
    assert messages[4]["data"]["eval_loss"] == 0.5


async def _steps(served, run, step):
    records = await served.store.records(run.run_id)
    return bool(records) and records[-1]["step"] == step


async def test_server_sent_events_go_on_from_the_last_event_id(served, run):
    run.metrics.write_text(line(1))
    await until(lambda: _steps(served, run, 1))
    address = served.events(run.run_id)
    async with httpx.AsyncClient(timeout=60) as client:
        async with client.stream("GET", address) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = await _events(answer, 2)
        with run.metrics.open("a") as stream:
            stream.write(line(2))
        last = {"Last-Event-ID": events[-1]["id"]}
        await until(lambda: _steps(served, run, 2))
        async with client.stream("GET", address, headers=last) as answer:
            again = await _events(answer, 2)

    assert [event["event"] for event in events] == ["status", "metrics"]
    assert json.loads(events[1]["data"])["data"]["step"] == 1
    assert [json.loads(event["data"])["data"]["step"] for event in again] == [1, 2]


async def _events(answer, count):
    events, now = [], {}
    async for text in answer.aiter_lines():
        if text and not text.startswith((":", "retry")):
            name, _, value = text.partition(": ")
            now[name] = value
        elif now:
            events.append(now)
            now = {}
        if len(events) == count:
            return events
    raise AssertionError(events)


async def test_events_of_the_training_are_notifications(served, run):
    event = {"at": "2026-01-31T12:00:00.000+00:00", "step": 7, "kind": "loss_spike"}
    async with websockets.connect(served.websocket(run.run_id)) as socket:
        await socket.recv()
        run.events.write_text(
            json.dumps({**event, "message": "The loss jumped.", "facts": {}}) + "\n"
        )
        told = await next_of(socket, "notification")

    assert told["data"]["title"] == "Loss spike"
    assert (told["data"]["message"], told["data"]["step"]) == ("The loss jumped.", 7)


async def test_what_another_replica_stores_arrives_too(served, run):
    job = run.run_id
    await served.store.append(job, [{"step": 0, "train_loss": 1.0}])
    async with (
        serving(create_app(ServiceSettings())) as other,
        websockets.connect(served.websocket(job)) as socket,
    ):
        await next_of(socket, "metrics")
        await other.store.append(job, [{"step": 1, "train_loss": 0.5}])
        while (first := await next_of(socket, "metrics"))["data"]["step"] < 1:
            pass
        await served.store.append(job, [{"step": 2, "train_loss": 0.25}])
        while (second := await next_of(socket, "metrics"))["data"]["step"] < 2:
            pass

    assert first["data"] == {"step": 1, "train_loss": 0.5, "loss": 0.5}
    assert second["data"]["train_loss"] == 0.25


async def test_one_request_asks_for_the_states_of_all_runs(served, prefect_api):
    async with get_client() as client:
        ids = [str((await client.create_flow_run(train)).id) for _ in range(5)]
    states = None
    async with asyncio.TaskGroup() as group:
        sockets = [await websockets.connect(served.websocket(id)) for id in ids for _ in range(3)]
        for socket in sockets:
            group.create_task(next_of(socket, "status"))
    streams = served.streams
    assert (streams.clients, len(streams._watched)) == (15, 5)
    states = streams._states
    before = states.requests
    await until(lambda: states.requests >= before + 2)
    assert len(states._watched) == 5
    for socket in sockets:
        await socket.close()
    await until(lambda: streams.clients == 0)
    assert (streams._watched, states._watched) == ({}, {})


@pytest.mark.parametrize("after", ["x", "1.2", "1.2.3.4", "-5.0.0", "9" * 90])
async def test_what_is_no_cursor_is_refused(served, run, after):
    async with websockets.connect(served.websocket(run.run_id, f"?after={after}")) as socket:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
    async with httpx.AsyncClient() as client:
        answer = await client.get(served.events(run.run_id), params={"after": after})

    assert closed.value.rcvd.code == 1008
    assert answer.status_code in {400, 422}
    assert "after" in answer.json()["detail"]


@pytest.mark.parametrize("job", [str(uuid.UUID(int=7)), "nobody"])
async def test_a_job_that_is_not_there_is_refused(served, job):
    async with websockets.connect(served.websocket(job)) as socket:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await socket.recv()
    async with httpx.AsyncClient() as client:
        answer = await client.get(served.events(job))

    assert closed.value.rcvd.code == 1008
    assert job in closed.value.rcvd.reason
    assert (answer.status_code, answer.json()["job_id"]) == (404, job)
