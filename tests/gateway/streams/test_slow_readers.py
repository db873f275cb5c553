"""A client that does not read: closed in time, and nobody else is kept waiting."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest
import websockets

from gateway.streams import prompt_websocket, sending
from gateway.streams.messages import MessageType, StreamCursor, message
from tests.waiting import until

JOB = "slow-readers"


@pytest.fixture
async def feed(alone):
    await alone.store.append(JOB, [{"step": 0, "train_loss": 1.0}])
    return lambda: alone.app.state.streams._watched[JOB].feed


async def unread(alone):
    """Open a WebSocket and never read from it; its kernel holds next to nothing."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(plain, ("127.0.0.1", alone.port))
    request = (
        f"GET /ws/training/jobs/{JOB} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    await loop.sock_sendall(plain, request.encode())
    return plain


async def forever(reader):
    while True:
        await reader.recv()


async def test_one_that_does_not_read_is_closed_and_the_others_are_served(alone, feed, monkeypatch):
    monkeypatch.setattr(sending, "SEND_SECONDS", 0.5)
    monkeypatch.setattr(prompt_websocket, "ABORT_SECONDS", 0.2)
    streams = alone.app.state.streams
    lazy = await unread(alone)
    async with websockets.connect(alone.websocket(JOB)) as reader:
        await reader.recv()
        await until(lambda: len(feed()._subscriptions) == 2)
        step = 0
        while streams.clients == 2:
            step += 1
            feed().publish_records([{"step": step, "text": "x" * 50_000}])
            while json.loads(await reader.recv())["data"]["step"] < step:
                pass
        # And not only in our books: nothing is left that waits for it to read.
        await until(lambda: alone.connections == 1, 20)
    lazy.close()

    assert step > 3  # the kernel and uvicorn took some of it


async def test_one_that_lets_states_pile_up_is_told_to_come_back(alone, feed):
    async with websockets.connect(alone.websocket(JOB)) as reader:
        await until(lambda: alone.app.state.streams.clients == 1)
        await reader.recv()
        for number in range(1000):  # at once: there is no time to send any of them
            cursor = StreamCursor(0, number)
            feed()._publish(message(MessageType.STATUS, {"state": "running"}, cursor))
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await forever(reader)

    assert closed.value.rcvd.code == 1013
    assert "?after=" in closed.value.rcvd.reason


async def test_a_burst_is_whole_for_a_client_that_keeps_up(alone, feed):
    async with websockets.connect(alone.websocket(JOB)) as reader:
        await until(lambda: alone.app.state.streams.clients == 1)
        await alone.store.append(JOB, [{"step": n, "train_loss": 1.0} for n in range(1, 3000)])
        steps: set[int] = set()
        while len(steps) < 3000:
            steps.add(json.loads(await reader.recv())["data"]["step"])

    assert steps == set(range(3000))
