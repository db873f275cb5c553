"""A stream goes on for as long as its client may see the job, and whatever run the job has."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
import websockets
from prefect import get_client

from deployments.deploy import deploy
from gateway.access.keys import create_key, revoke_key
from gateway.access.users import add_user, user_named
from tests.gateway.commanding import job_values
from tests.gateway.streams.test_streams import next_of, run  # noqa: F401 - a fixture


async def test_a_stream_ends_when_its_key_is_revoked(served, run):  # noqa: F811
    database = served.app.state.database
    key = await create_key(database, "page", {"read"}, by="test")
    headers = {"Authorization": f"Bearer {key}"}
    address = served.websocket(run.run_id)
    async with (
        websockets.connect(address, additional_headers=headers) as socket,
        httpx.AsyncClient(headers=headers, timeout=30) as client,
        client.stream("GET", served.events(run.run_id)) as answer,
    ):
        events = answer.aiter_lines()
        await anext(events)
        await next_of(socket, "status")
        await revoke_key(database, key.split("_")[1])
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await asyncio.wait_for(next_of(socket, "nothing"), 20)
        async for _ in events:  # until it ends
            pass

    assert closed.value.rcvd.code == 1008


async def test_a_stream_ends_with_the_session(served, run):  # noqa: F811
    gate = served.app.state.gate
    await add_user(gate.engine, "ada", {"read"}, password="a long password")  # noqa: S106
    user = await user_named(gate.engine, "ada")
    cookie = await gate.sessions.begin(user)
    headers = {"Cookie": f"to_session={cookie}"}
    origin = f"http://127.0.0.1:{served.port}"
    async with websockets.connect(
        served.websocket(run.run_id), additional_headers=headers, origin=origin
    ) as socket:
        await next_of(socket, "status")
        await gate.sessions.end_all("ada")
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(next_of(socket, "nothing"), 20)


async def test_the_stream_of_a_draft_follows_its_submission(served):
    async with get_client() as client:
        await deploy(client, lambda _: None)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", timeout=60) as client:
        made = {"job_id": "followed", "job": job_values()}
        (await client.post("/api/training/jobs", json=made)).raise_for_status()
        async with websockets.connect(served.websocket("followed")) as socket:
            first = json.loads(await socket.recv())
            await client.post("/api/training/jobs/followed/submit", json={"provider": "local"})
            await client.post("/api/training/jobs/followed/cancel")
            while (last := await next_of(socket, "status"))["data"]["state"] != "stopped":
                pass

    assert first["data"]["message"] == "waits for its submission"
    assert last["data"]["job_id"] != first["data"]["job_id"], "the run, which is another one"
