"""Receivers of messages that tests run: a web server that keeps what it was sent, and a mail server."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import UnthreadedController
from aiosmtpd.smtp import Envelope


@dataclass
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class WebReceiver:
    """What came, and the statuses of the next answers; then 200."""

    url: str = ""
    requests: list[Received] = field(default_factory=list)
    next: deque[int | tuple[int, dict[str, str]]] = field(default_factory=deque)
    came: threading.Event = field(default_factory=threading.Event)


@contextmanager
def web_receiver() -> Iterator[WebReceiver]:
    found = WebReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = found.next.popleft() if found.next else 200
            status, extra = answer if isinstance(answer, tuple) else (answer, {})
            found.requests.append(Received(self.path, headers, body))
            self.send_response(status)
            for name, value in {**extra, "content-length": "2"}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"ok")
            found.came.set()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class MailReceiver:
    """The mails that came."""

    port: int = 0
    mails: list[Message] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:
        del server, session
        assert isinstance(envelope.content, bytes)
        self.mails.append(message_from_bytes(envelope.content, policy=default))
        self.recipients.append(envelope.rcpt_tos)
        return "250 taken"


@contextmanager
def mail_receiver() -> Iterator[MailReceiver]:
    """Serve SMTP from a loop of our own: the library's own threads leave a socket open."""
    import asyncio

    found = MailReceiver()
    loop = asyncio.new_event_loop()
    controller = UnthreadedController(found, hostname="127.0.0.1", port=0, loop=loop)
    controller.begin()
    found.port = controller.server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield found
    finally:
        asyncio.run_coroutine_threadsafe(controller.finalize(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
