"""A backend of document 004: it takes what an agent reports of jobs, or does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from tests.clouds.serving import Server

TOKEN = "token-of-the-backend-5f3a91c7"  # noqa: S105 - of this backend


@dataclass
class PretendedBackend:
    """What it took, in order, and whether it is there."""

    took: list[tuple[str, str, Any]] = field(default_factory=list)
    """Method, last part of the path, body."""
    refused: list[int] = field(default_factory=list)
    status: int = 200
    """What it answers; it takes nothing unless it is 200."""
    tokens: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)

    def start(self) -> PretendedBackend:
        self._server = Server(self, 0)
        self._server.start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        return self

    def stop(self) -> None:
        self._server.stop()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.tokens.add(request.headers["authorization"])
        before, _, kind = request.url.path.rpartition("/")
        if self.status == 200:
            self.paths.add(before)
            self.took.append((request.method, kind, await request.json()))
        else:
            self.refused.append(self.status)
        await JSONResponse({}, self.status)(scope, receive, send)

    @property
    def steps(self) -> list[int]:
        return [
            point["step"]
            for method, kind, body in self.took
            if (method, kind) == ("PUT", "metrics")
            for point in body["metrics"]
        ]

    @property
    def lines(self) -> list[str]:
        return [
            line
            for method, kind, body in self.took
            if (method, kind) == ("POST", "logs")
            for line in body["logs"]
        ]

    @property
    def statuses(self) -> list[str]:
        return [
            body["status"]
            for method, kind, body in self.took
            if (method, kind) == ("PATCH", "status")
        ]
