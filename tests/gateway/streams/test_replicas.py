"""Two replicas behind a proxy, of which one is killed while it streams."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress

import httpx
import pytest
import websockets
from prefect.states import Completed

from tests.gateway.serving import process_of
from tests.gateway.streams.test_streams import line, run, set_state  # noqa: F401 - a fixture
from tests.waiting import until

CLIENTS, BEFORE, STEPS = 5, 40, 120
SERVING = r"serving http://127\.0\.0\.1:(\d+) \(its"


class Proxy:
    """Passes connections on to the replicas in turn, and to another where one is not there."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(task := asyncio.current_task())
        try:
            for _ in self._ports:
                self._next += 1
                port = self._ports[self._next % len(self._ports)]
                with suppress(OSError):
                    behind = await asyncio.open_connection("127.0.0.1", port)
                    await self._both_ways(reader, writer, *behind)
                    break
        finally:
            writer.close()
            self._tasks.discard(task)

    @staticmethod
    async def _both_ways(reader, writer, from_behind, to_behind) -> None:
        async def copy(source, target) -> None:
            with suppress(OSError):
                while chunk := await source.read(1 << 16):
                    target.write(chunk)
                    await target.drain()

        ways = [
            asyncio.create_task(copy(*each))
            for each in ((reader, to_behind), (from_behind, writer))
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        to_behind.close()


class Client:
    """What one client has, and how often it had to come back."""

    def __init__(self) -> None:
        self.cursor = ""
        self.steps: set[int] = set()
        self.states: list[str] = []
        self.connections = 0

    def take(self, text: str) -> None:
        message = json.loads(text)
        self.cursor = message["cursor"]
        if message["type"] == "metrics":
            self.steps.add(message["data"]["step"])
        elif message["type"] == "status":
            self.states.append(message["data"]["state"])

    @property
    def is_over(self) -> bool:
        return self.states[-1:] == ["completed"] and len(self.steps) >= STEPS


async def by_websocket(client: Client, address: str) -> None:
    while not client.is_over:
        client.connections += 1
        query = f"?after={client.cursor or 0}"
        with suppress(OSError, websockets.WebSocketException):
            async with websockets.connect(f"ws://{address}{query}") as socket:
                while not client.is_over:
                    client.take(await socket.recv())
        await asyncio.sleep(0.1)


async def by_events(client: Client, address: str) -> None:
    async with httpx.AsyncClient(timeout=60) as http:
        while not client.is_over:
            client.connections += 1
            headers = {"Last-Event-ID": client.cursor or "0"}
            with suppress(httpx.TransportError):
                async with http.stream("GET", f"http://{address}", headers=headers) as answer:
                    async for text in answer.aiter_lines():
                        if text.startswith("data: "):
                            client.take(text.removeprefix("data: "))
                        if client.is_over:
                            break
            await asyncio.sleep(0.1)


@pytest.mark.thorough
@pytest.mark.timeout(900)
async def test_clients_of_a_replica_that_dies_go_on_without_a_gap(run, tmp_path):  # noqa: F811
    with ExitStack() as held:
        replicas = [
            held.enter_context(process_of(tmp_path, "serve", "--port", "0", seen=SERVING))
            for _ in range(2)
        ]
        ports = [int(found[1]) for _, found in replicas]
        for port in ports:
            await until(lambda port=port: is_ready(port))
        async with Proxy(ports).serving() as port, AsyncExitStack() as ending:
            clients = [Client() for _ in range(2 * CLIENTS)]
            job = run.run_id
            addresses = {
                by_websocket: f"127.0.0.1:{port}/ws/training/jobs/{job}",
                by_events: f"127.0.0.1:{port}/api/training/jobs/{job}/events",
            }
            ways = [way for way in addresses for _ in range(CLIENTS)]
            tasks = [
                asyncio.create_task(way(client, addresses[way]))
                for way, client in zip(ways, clients, strict=True)
            ]
            ending.push_async_callback(ended, tasks)
            await write(run, range(BEFORE))
            await until(lambda: all(len(client.steps) >= BEFORE // 2 for client in clients))
            replicas[0][0].kill()
            await write(run, range(BEFORE, STEPS))
            await set_state(run, Completed())
            await until(lambda: all(task.done() for task in tasks))

    assert all(client.steps == set(range(STEPS)) for client in clients)
    assert {client.states[-1] for client in clients} == {"completed"}
    came_back = sum(client.connections > 1 for client in clients)
    assert came_back >= 1, "somebody was at the replica that died"
    assert came_back < len(clients), "and somebody was not"


async def write(run, steps) -> None:  # noqa: F811
    for step in steps:
        with run.metrics.open("a") as stream:
            stream.write(line(step))
            stream.flush()
            os.fsync(stream.fileno())
        await asyncio.sleep(0.05)


async def is_ready(port: int) -> bool:
    async with httpx.AsyncClient(timeout=60) as client:
        try:
            return (await client.get(f"http://127.0.0.1:{port}/health")).is_success
        except httpx.TransportError:
            return False


async def ended(tasks) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
