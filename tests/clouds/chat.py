"""A small server that speaks OpenAI's chat completions API, with the troubles that such servers have.

https://platform.openai.com/docs/api-reference/chat/create; errors as of docs/guides/error-codes.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-proj-canary-7f3a9c51"
MODEL = "judge-1"
Answer = tuple[int, dict[str, str], bytes]
"""Status, further headers and body."""


class Chat(ThreadingHTTPServer):
    """Judges by a function of the request's text, unless some trouble is due."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self.server_port}/v1"
        self.asked: list[dict[str, Any]] = []
        """The body of every request that came with the key."""
        self.at_once = self.most_at_once = 0
        self.troubles: deque[Callable[[], Answer | None]] = deque()
        """What the next requests meet, in this order; None: silence until the server ends."""
        self.always: Callable[[], Answer | None] | None = None
        self.judge: Callable[[str], dict[str, Any]] = lambda text: said("Fine.\nScore: 5")
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.together = threading.Barrier(1)
        """Requests wait here for one another."""


class Handler(BaseHTTPRequestHandler):
    server: Chat
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        server.together.wait(10)
        try:
            answer = self._answer(body)
        finally:
            with server.lock:
                server.at_once -= 1
        if answer is None:
            server.over.wait()
            self.close_connection = True
            return
        status, headers, content = answer
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _answer(self, body: dict[str, Any]) -> Answer | None:
        if self.path != "/v1/chat/completions":
            return error(404, "Unknown request URL", "unknown_url")
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given != KEY:
            return error(401, f"Incorrect API key provided: {given}.", "invalid_api_key")
        with self.server.lock:
            self.server.asked.append(body)
            trouble = self.server.troubles.popleft() if self.server.troubles else None
        if trouble := trouble or self.server.always:
            return trouble()
        if body["model"] != MODEL:
            return error(404, f"The model `{body['model']}` does not exist", "model_not_found")
        choice = self.server.judge(body["messages"][0]["content"])
        return as_json(
            200,
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1741569952,
                "model": MODEL,
                "choices": [{"index": 0, "logprobs": None, **choice}],
                "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29},
            },
        )


def said(content: Any, finish: str = "stop", **further: Any) -> dict[str, Any]:
    """Return a choice."""
    message = {"role": "assistant", "content": content, "refusal": None, **further}
    return {"message": message, "finish_reason": finish}


def as_json(status: int, value: Any, **headers: str) -> Answer:
    content = json.dumps(value).encode()
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return status, {"Content-Type": "application/json", **named}, content


def error(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    body = {"error": {"message": message, "type": "error", "param": None, "code": code}}
    return as_json(status, body, **headers)


def busy(**headers: str) -> Answer:
    """Return what comes when too many requests are made."""
    return error(429, "Rate limit reached for requests", "rate_limit_exceeded", **headers)


@contextmanager
def running_chat() -> Iterator[Chat]:
    """Serve in a thread."""
    server = Chat()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
