"""What the local object stores have in common: a threaded server, faults, and what was asked.

Threads and blocking sockets, because what is tried on them is cut lines and slow answers in the
middle of a body, and because a store moves more bytes than an ASGI application is good at.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that came whole."""

    method: str
    target: str
    """As it was sent: path and query, both quoted."""
    headers: Mapping[str, str]
    """By lower-case names."""
    body: bytes

    @property
    def path(self) -> str:
        """The path, unquoted."""
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        """The query's parameters."""
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


@dataclass(frozen=True, slots=True)
class Said:
    """An answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class StoreFault:
    """What goes wrong with the next requests of a kind."""

    method: str
    path: str
    """A pattern that is searched for in the path."""
    times: int = 1
    answer: Said | None = None
    """Instead of the store's own."""
    commits: bool = False
    """Whether the store did what was asked all the same."""
    cut_after: int | None = None
    """Bytes of the request's body, or of the answer's for GET, after which the line is cut."""
    hold: threading.Event | None = None
    """The answer waits for it."""
    began: threading.Event = field(default_factory=threading.Event)
    """Set when the fault takes place."""


class LocalStoreServer:
    """A server on loopback; `answer` is what a kind of store does with a request."""

    def __init__(self, port: int = 0) -> None:
        self.asked: list[Asked] = []
        self.faults: list[StoreFault] = []
        self.errors: list[str] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.store = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, asked: Asked) -> Said:
        """Do what was asked."""
        raise NotImplementedError

    def refused(self, status: int, code: str, message: str = "") -> Said:
        """Return an error as this kind of store writes it."""
        text = f"<Error><Code>{code}</Code><Message>{message or code}</Message></Error>"
        return Said(status, text.encode(), {"Content-Type": "application/xml"})

    def count(self, method: str, pattern: str = "") -> int:
        """Return how many requests of a kind came whole."""
        return sum(a.method == method and bool(re.search(pattern, a.path)) for a in self.asked)

    def take_fault(self, method: str, path: str) -> StoreFault | None:
        """Return the fault that this request meets."""
        with self._lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    fault.began.set()
                    return fault
        return None

    def answered(self, asked: Asked, fault: StoreFault | None) -> Said:
        """Return what goes back."""
        with self._lock:
            self.asked.append(asked)
            try:
                said = None if fault and fault.answer and not fault.commits else self.answer(asked)
            except Exception as error:  # noqa: BLE001 - for a test to see
                self.errors.append(f"{asked.method} {asked.target}: {error!r}")
                said = Said(500)
        return fault.answer if fault and fault.answer else said or Said(500)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for fault in self.faults:
            if fault.hold:
                fault.hold.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    store: LocalStoreServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: callers that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(CHUNK)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        store = self.server.store
        fault = store.take_fault(self.command, unquote(urlsplit(self.path).path))
        left = int(self.headers.get("Content-Length") or 0)
        cut = fault.cut_after if fault and self.command != "GET" else None
        body = self.rfile.read(left if cut is None else min(left, cut))
        if cut is not None or len(body) < left:
            self._cut()
            return
        if fault and fault.hold:
            fault.hold.wait()
        headers = {name.lower(): value for name, value in self.headers.items()}
        said = store.answered(Asked(self.command, self.path, headers, body), fault)
        self._say(said, fault.cut_after if fault else None)

    def _say(self, said: Said, cut: int | None) -> None:
        given = {name.title(): value for name, value in said.headers.items()}
        length = given.get("Content-Length") if self.command == "HEAD" else None
        self.send_response_only(said.status)
        for name in given.keys() - {"Content-Length", "Transfer-Encoding", "Connection"}:
            self.send_header(name, given[name])
        if said.status not in {204, 304}:
            self.send_header("Content-Length", length or str(len(said.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said.body if cut is None else said.body[:cut])
        if cut is not None:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
