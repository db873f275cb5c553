"""The wire between a cloud and its callers: where answers are logged, checked, bent and lost."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from tests.clouds.cloud import Cloud
    from tests.clouds.faults import Fault

DRIP_SECONDS = 0.05
PAGE = "<html><head><title>502 Bad Gateway</title></head><body>cloudflare</body></html>"


class Wire:
    """An ASGI application around that of a cloud."""

    def __init__(self, app: ASGIApp, cloud: Cloud) -> None:
        self._app = app
        self._cloud = cloud

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or do not."""
        from tests.clouds.cloud import Logged

        if scope["type"] != "http":
            return
        body = await Request(scope, receive).body()
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        method, path = self._cloud.named(scope["method"], scope["path"], headers, body)
        logged = Logged(method, path, scope["query_string"].decode())
        self._cloud.requests.append(logged)
        fault = self._cloud.faults.take(method, path)
        response = None
        if fault is None or fault.commits:
            response = await self._answer(scope, body)
        response = await _bend(fault, response, receive)
        logged.status = response.status_code if response else 0
        if response is None:
            await _cut(receive, send)
        else:
            await response(scope, receive, send)

    async def _answer(self, scope: Scope, body: bytes) -> Response:
        request = Request(scope, _once(body))
        response = await self._cloud.gate(request)
        if response is None:
            response = await self._routed(scope, body)
        self._cloud.finish(request, response)
        if self._cloud.unknown_status is None:  # else it is broken on purpose
            self._cloud.contract.check(request, body, response)
        return self._changed(response)

    async def _routed(self, scope: Scope, body: bytes) -> Response:
        started: Message = {"status": 500, "headers": []}
        parts: list[bytes] = []

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.update(message)
            else:
                parts.append(message.get("body", b""))

        try:
            await self._app(dict(scope), _once(body), keep)
        except Exception as error:  # noqa: BLE001 - for a test to see, not a log
            self._cloud.errors.append(f"{scope['method']} {scope['path']}: {error!r}")
            return Response(status_code=500)
        response = Response(b"".join(parts), status_code=started["status"])
        response.raw_headers = list(started["headers"])
        return response

    def _changed(self, response: Response) -> Response:
        """Return an answer with more, fewer or emptier fields, as switched on."""
        cloud = self._cloud
        if not (cloud.extra_fields or cloud.missing_fields or cloud.null_fields):
            return response
        try:
            value = json.loads(bytes(response.body))
        except ValueError:
            return response
        return _with_body(response, json.dumps(self._changed_value(value)).encode())

    def _changed_value(self, value: Any) -> Any:
        cloud = self._cloud
        if isinstance(value, list):
            return [self._changed_value(entry) for entry in value]
        if not isinstance(value, dict):
            return value
        changed = {
            name: None if name in cloud.null_fields else self._changed_value(entry)
            for name, entry in value.items()
            if name not in cloud.missing_fields
        }
        return changed | ({"novelty": {"since": 2027}} if cloud.extra_fields else {})


class Server:
    """A uvicorn server in a thread of its own, which starts and stops without delay."""

    def __init__(self, app: ASGIApp, port: int, **tls: str) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", port))
        self.port: int = self._socket.getsockname()[1]
        self._server = _Uvicorn(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                proxy_headers=False,
                **tls,
            )
        )
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name=f"cloud-{self.port}", daemon=True
        )

    def start(self) -> None:
        """Listen; return when it does."""
        self._thread.start()
        self._server.listening.wait(30)

    def stop(self) -> None:
        """Cut all connections and stop."""
        if self._thread.is_alive():
            self._server.end()
            self._thread.join(30)
        self._socket.close()


class _Uvicorn(uvicorn.Server):
    """uvicorn, without the pauses of its loop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    def end(self) -> None:
        """Leave `main_loop`, from any thread."""
        self._loop.call_soon_threadsafe(self._over.set)

    async def main_loop(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self.listening.set()
        await self._over.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Nothing is accepted any more, and what was accepted becomes a connection of uvicorn's, before
        # the server closes: asyncio never closes one that comes after (CPython 3.11, in
        # `_accept_connection2`), and then whichever test runs as Python finds it fails.
        for listening in sockets or ():
            self._loop.remove_reader(listening)
        await _turns()
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if tasks := list(self.server_state.tasks):  # they notice that the server has closed
            await asyncio.wait(tasks, timeout=30)
        await _turns()


async def _turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _bend(
    fault: Fault | None, response: Response | None, receive: Receive
) -> Response | None:
    """Return what the caller gets, None for nothing."""
    if fault is None:
        return response
    match fault.kind:
        case "status" | "commit_then_status":
            text = fault.body if isinstance(fault.body, str) else json.dumps(fault.body)
            sent = "" if fault.body is None else text
            headers = {"Content-Type": "application/json", **fault.headers}
            return Response(sent, status_code=fault.status, headers=headers)
        case "html":
            return Response(PAGE, status_code=fault.status, media_type="text/html")
        case "truncated" if response is not None:
            whole = bytes(response.body)
            return _with_body(response, whole[: len(whole) // 2])
        case "empty" if response is not None:
            return _with_body(response, b"")
        case "drip":
            return StreamingResponse(_blanks(fault.seconds), media_type="application/json")
        case "delay":
            await _silence(fault.seconds, receive)
            return response
        case "silence" | "commit_then_silence":
            await _silence(fault.seconds, receive)
    return None


def _with_body(response: Response, body: bytes) -> Response:
    """Return an answer with another body, and a length that is true of it."""
    changed = Response(body, status_code=response.status_code)
    kept = [entry for entry in response.raw_headers if entry[0] != b"content-length"]
    changed.raw_headers = [*kept, (b"content-length", str(len(body)).encode())]
    return changed


def _once(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _blanks(seconds: float) -> AsyncIterator[bytes]:
    for _ in range(round(seconds / DRIP_SECONDS)):
        yield b" "
        await asyncio.sleep(DRIP_SECONDS)


async def _silence(seconds: float, receive: Receive) -> None:
    """Say nothing until the time is over or the caller hangs up."""
    try:
        async with asyncio.timeout(seconds):
            while (await receive())["type"] != "http.disconnect":
                pass
    except TimeoutError:
        pass


async def _cut(receive: Receive, send: Send) -> None:
    """Close the connection without an answer: ASGI has no word for it, uvicorn has the means."""
    send.__self__.transport.abort()  # type: ignore[attr-defined]
    while (await receive())["type"] != "http.disconnect":
        pass
