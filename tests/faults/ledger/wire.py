"""Calls to a local cloud without sockets: by the libraries that the product uses, in the loop's time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextvars import Context
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from botocore import awsrequest, exceptions, httpsession

from blocks.providers import api
from blocks.providers.azure import login
from blocks.providers.gcp import access
from blocks.stores.bucket import Entry
from tests.clouds.cloud import Cloud
from tests.faults.ledger.clock import WHO, DictApart, FastLoop, SetApart, told_by
from trainer.config.store_urls import StoreUrl

THERE = 0.02
"""Seconds from us to a provider, and the same back."""


@dataclass
class Trap:
    """Kills whoever makes a call of some kind next."""

    method: str
    committed: bool
    """After it has taken effect; else before."""


@dataclass
class Line:
    """What leads to a cloud."""

    loop: FastLoop
    cloud: Cloud
    traps: list[Trap] = field(default_factory=list)

    async def asked(
        self, method: str, url: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes] | None:
        """Return status, headers and body; None where the connection was cut."""
        place = urlsplit(url)
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": place.path or "/",
            "raw_path": place.path.encode(),
            "query_string": place.query.encode(),
            "headers": [(name.lower(), text) for name, text in headers],
            "server": (place.hostname, place.port),
            "client": ("127.0.0.1", 1),
        }
        by = {name.decode().lower(): text.decode() for name, text in headers}
        kind, _ = self.cloud.named(method, scope["path"], by, body)
        who = WHO.get()
        trap = next((one for one in self.traps if who and one.method == kind), None)
        if trap:
            self.traps.remove(trap)  # one process alone dies by it
        if trap and who and not trap.committed:
            self.loop.kill(who)
        await asyncio.sleep(THERE)
        answer = _Answer(body)
        # On the provider's side: it goes on whatever becomes of whoever asked.
        work = self._wire(scope, answer)
        await asyncio.shield(self.loop.create_task(work, context=Context()))
        if trap and who and trap.committed:
            self.loop.kill(who)
        await asyncio.sleep(THERE)
        return None if answer.is_cut else (answer.status, answer.headers, bytes(answer.body))

    async def _wire(self, scope: dict[str, Any], answer: _Answer) -> None:
        work = asyncio.ensure_future(self.cloud._wire(scope, answer.receive, answer.send))
        cut = asyncio.ensure_future(answer.cut.wait())
        await asyncio.wait({work, cut}, return_when=asyncio.FIRST_COMPLETED)
        cut.cancel()
        if work.done():
            work.result()


class _Answer:
    """The other end of a connection, as ASGI has it."""

    def __init__(self, body: bytes) -> None:
        self._given = [{"type": "http.request", "body": body, "more_body": False}]
        self.cut = asyncio.Event()
        self.status, self.headers, self.body = 0, [], bytearray()
        self.transport = self

    def abort(self) -> None:
        self.cut.set()

    @property
    def is_cut(self) -> bool:
        return self.cut.is_set() or not self.status

    async def receive(self) -> Any:
        if self._given:
            return self._given.pop()
        await self.cut.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            self.body += message.get("body", b"")


class _ByHttpx(httpx.AsyncBaseTransport):
    def __init__(self, line: Line) -> None:
        self._line = line

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if trace := request.extensions.get("trace"):
            await trace("http11.send_request_headers.started", {})
        body = await request.aread()
        found = await self._line.asked(request.method, str(request.url), request.headers.raw, body)
        if found is None:
            raise httpx.RemoteProtocolError("the connection was cut", request=request)
        status, headers, content = found
        kept = [one for one in headers if one[0].lower() != b"content-encoding"]
        return httpx.Response(status, headers=kept, content=content)


class _Body:
    """What botocore reads an answer from."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


class MemoryBucket:
    """A bucket of the loop's time, with what the agents' mailboxes need."""

    def __init__(self, loop: FastLoop, kept: dict[str, tuple[bytes, float]], url: StoreUrl) -> None:
        self._loop, self._kept, self.url = loop, kept, url
        self._base = f"{url.path}/" if url.path else ""

    async def put(self, key: str, content: bytes) -> None:
        await asyncio.sleep(THERE)
        self._kept[self._base + key] = content, self._loop.time()

    async def delete(self, keys: list[str]) -> None:
        await asyncio.sleep(THERE)
        for key in keys:
            self._kept.pop(self._base + key, None)

    async def entries(self, prefix: str = "") -> list[Entry]:
        await asyncio.sleep(THERE)
        base, told = self._base + (f"{prefix}/" if prefix else ""), told_by(self._loop)
        return [
            Entry(key[len(self._base) :], len(content), told.fromtimestamp(at, UTC), "")
            for key, (content, at) in sorted(self._kept.items())
            if key.startswith(base)
        ]

    async def folders(self) -> list[str]:
        return sorted({one.key.partition("/")[0] for one in await self.entries() if "/" in one.key})


def connect(patch: pytest.MonkeyPatch, line: Callable[[], Line]) -> None:
    """Lead every call to the cloud of the walk under way, and keep memories apart."""

    def client(timeout: float = 5.0) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=_ByHttpx(line()), timeout=timeout)

    async def client_of(account: str) -> httpx.AsyncClient:
        del account
        return client()

    patch.setattr(api, "new_client", client)
    patch.setattr(api, "client_of", client_of)
    patch.setattr(httpsession.URLLib3Session, "send", lambda _, asked: _by_botocore(line(), asked))

    async def valid(_: Any) -> str:
        return _azure_token(line().cloud)

    patch.setattr(login.Login, "_valid", valid)

    async def google(_: Any, *, stale: bool) -> str:
        del stale
        return _google_token(line().cloud)

    patch.setattr(access.GoogleToken, "_token", google)


def keep_apart(patch: pytest.MonkeyPatch, places: Mapping[Any, tuple[str, ...]]) -> None:
    """Let each process of ours have its own of what these modules and classes keep in mind."""
    for place, names in places.items():
        for name in names:
            made: Any = SetApart() if isinstance(getattr(place, name), set) else DictApart()
            patch.setattr(place, name, made)


def _by_botocore(line: Line, asked: Any) -> Any:
    """Answer a call of botocore, which blocks: meanwhile the loop goes on from within itself."""
    body = asked.body or b""
    content = body.encode() if isinstance(body, str) else bytes(body)
    headers = [
        (name.encode(), text if isinstance(text, bytes) else str(text).encode())
        for name, text in asked.headers.items()
    ]
    who = WHO.get()
    context = Context()
    context.run(WHO.set, who)
    # Killed by a trap, it still comes to its end here; nobody is told of it.
    work = line.asked(asked.method, asked.url, headers, content)
    task = line.loop.create_task(work, context=context)
    line.loop.until(lambda: task.done() or (who is not None and who.is_dead))
    found = task.result() if task.done() else None
    if found is None:
        raise exceptions.ConnectionClosedError(endpoint_url=asked.url)
    status, given, answer = found
    named = {name.decode(): text.decode() for name, text in given}
    return awsrequest.AWSResponse(asked.url, status, named, _Body(answer))


def _azure_token(cloud: Any) -> str:
    if "ledger" not in vars(cloud):
        cloud.entra.lasts = 10**9
        cloud.ledger, _ = cloud.entra.give()
    return str(cloud.ledger)


def _google_token(cloud: Any) -> str:
    return f"ya29.{cloud.key}"
