"""A service that answers as the founding document writes, and is lost, busy or slow when it is told to."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.clouds.serving import Server, _cut

KEY = "to_0123456789_abcdefghijklmnopqrstuvwxyz"


@dataclass
class DocumentService:
    """Its jobs, what it was asked, and what becomes of the next requests."""

    folder: Path
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    next: deque[Any] = field(default_factory=deque)
    """A status, (status, headers), "lost" (done, and no answer), or "slow"."""
    done: dict[str, Any] = field(default_factory=dict)
    """The answers by Idempotency-Key."""
    streams: deque[list[str]] = field(default_factory=deque)
    """What each connection to a stream sends before it is cut."""

    def start(self) -> DocumentService:
        routes = [
            Route("/api/training/jobs", self._create, methods=["POST"]),
            Route("/api/training/jobs", self._list),
            Route("/api/training/jobs/{id}/events", self._stream),
            Route("/api/training/jobs/{id}/{what}", self._change, methods=["POST"]),
            Route("/api/training/jobs/{id}/{what}", self._read),
            Route("/api/training/local/{id}/metrics", self._metrics),
        ]
        self._app = Starlette(routes=routes)
        self._server = Server(self, 0)
        self._server.start()
        self.url = f"http://127.0.0.1:{self._server.port}"
        return self

    def stop(self) -> None:
        self._server.stop()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        self.asked.append((request.method, request.url.path, dict(request.headers)))
        fault = self.next.popleft() if self.next else None
        status, headers = fault if isinstance(fault, tuple) else (fault, {})
        if isinstance(status, int):
            body = {"error": "as asked", "detail": f"as asked: {status}", "job_id": None}
            await JSONResponse(body, status, headers=headers)(scope, receive, send)
        elif request.headers.get("authorization") != f"Bearer {KEY}":
            await JSONResponse({"detail": "There is no such key."}, 401)(scope, receive, send)
        elif fault == "lost":

            async def nowhere(_: Any) -> None:
                pass

            await self._app(scope, receive, nowhere)
            await _cut(receive, send)
        elif fault == "slow":
            await asyncio.sleep(1.0)
            await self._app(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _create(self, request: Request) -> Response:
        key, body = request.headers["idempotency-key"], await request.json()
        if key not in self.done:
            id = body["job_id"]
            self.jobs[id] = {"job_id": id, "state": "created"}
            self.done[key] = self.jobs[id]
        return JSONResponse(self.done[key], 201)

    async def _list(self, request: Request) -> Response:
        wanted = {k: v for k in ("state", "provider") if (v := request.query_params.get(k))}
        found = [j for j in self.jobs.values() if all(j.get(k) == v for k, v in wanted.items())]
        begin, limit = (
            int(request.query_params.get("cursor", 0)),
            int(request.query_params["limit"]),
        )
        end = begin + min(limit, 2)
        page = {"jobs": found[begin:end], "total": len(found)}
        return JSONResponse(page | ({"cursor": str(end)} if end < len(found) else {}))

    async def _read(self, request: Request) -> Response:
        job = self.jobs.get(request.path_params["id"])
        if job is None:
            detail = f"There is no job {request.path_params['id']!r}."
            return JSONResponse({"error": "Not Found", "detail": detail}, 404)
        what = {
            "status": {
                **job,
                "current_metrics": {"step": 1000, "loss": 0.5},
                "artifact_info": None,
            },
            "logs": self._log(job["job_id"], request),
            "errors": {"job_id": job["job_id"], "errors": [{"message": "nan", "suggestion": "!"}]},
        }
        return JSONResponse(what[request.path_params["what"]])

    def _log(self, id: str, request: Request) -> dict[str, Any]:
        lines = [f"line {number}" for number in range(2500)]
        after, limit = (int(request.query_params.get(name, 0)) for name in ("after", "limit"))
        start = max(0, len(lines) + after) if after < 0 else after
        some = lines[start : start + limit]
        return {"job_id": id, "logs": some, "next": start + len(some)}

    async def _metrics(self, request: Request) -> Response:
        return JSONResponse({"job_id": request.path_params["id"], "metrics": [{"step": 1}]})

    async def _change(self, request: Request) -> Response:
        job = self.jobs[request.path_params["id"]]
        match request.path_params["what"]:
            case "submit":
                provider = (await request.json())["provider"]
                started = {"started_at": "2024-01-15T10:30:00Z", "provider_job_id": "theirs-1"}
                job |= {"state": "running", "provider": provider, **started}
            case "cancel":
                if job["state"] == "stopped":
                    return JSONResponse({"detail": "It is stopped; nothing to cancel."}, 400)
                job |= {"state": "stopped", "completed_at": "2024-01-15T11:00:00Z"}
            case "pause":
                job["state"] = "paused"
            case "resume":
                job["state"] = "running"
            case "download-artifact":
                return JSONResponse(self._artifact(job["job_id"]))
        return JSONResponse({**job, "message": "as asked"})

    def _artifact(self, id: str) -> dict[str, Any]:
        path = self.folder / "adapter_model.safetensors"
        path.write_bytes(b"weights")
        return {
            "artifact_id": f"{id}_artifact",
            "job_id": id,
            "path": str(path),
            "size_bytes": 7,
            "hash_sha256": hashlib.sha256(b"weights").hexdigest(),
            "created_at": "2024-01-15T11:00:00Z",
            "metadata": {"provider": "runpod", "peft_method": "lora"},
        }

    async def _stream(self, request: Request) -> Response:
        lines = self.streams.popleft()

        async def some() -> Any:
            for line in lines:
                yield line

        return StreamingResponse(some(), media_type="text/event-stream")
