"""A platform of a user's own: it takes metrics and alerts as its contract has them, or does not."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from tests.clouds.serving import Server, _cut, _silence

TOKEN, KEY = "job-token-5f3a91c7", "internal-key-77b0e2d4"
USER = "1f0e6a54-9a8f-4c57-8f6e-0a5d5f5b7a11"
NUMBERS = {
    *("step", "epoch", "train_loss", "eval_loss", "learning_rate", "grad_norm", "perplexity"),
    *("samples_per_second", "gpu_memory_allocated_gb", "gpu_utilization_percent"),
}
TYPES = {
    *("job_started", "job_completed", "job_failed"),
    *("job_cancelled", "gpu_oom", "timeout_warning"),
}
TEXTS = {"type", "job_id", "user_id", "model_name", "status", "error_message", "error_type"}
COUNTS = {"progress", "current_step", "total_steps", "loss", "duration"}


@dataclass
class Receiver:
    """Its server, what it took, and what it does with the next requests."""

    points: list[dict[str, Any]] = field(default_factory=list)
    alerts: list[dict[str, Any]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    job_ids: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    requests: int = 0
    always: int | None = None
    """The status of every answer, nothing being taken."""
    next: deque[Any] = field(default_factory=deque)
    """What becomes of the next requests: a status, (status, headers), "drop" or "slow"."""
    on_points: Any = None
    _server: Server | None = None
    port: int = 0

    def start(self) -> Receiver:
        self._server = Server(self, self.port)
        self.port = self._server.port
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server:
            self._server.stop()
            self._server = None

    def reserve(self) -> Receiver:
        """Take a port and be down."""
        self.start().stop()
        return self

    @property
    def environment(self) -> dict[str, str]:
        base = f"http://127.0.0.1:{self.port}/api"
        return {
            "METRICS_API_URL": f"{base}/training/local/metrics",
            "JOB_TOKEN": TOKEN,
            "ALERT_API_URL": f"{base}/alerts/trigger",
            "INTERNAL_API_KEY": KEY,
            "USER_ID": USER,
        }

    @property
    def steps(self) -> list[int]:
        return [point["step"] for point in self.points]

    @property
    def types(self) -> list[str]:
        return [alert["type"] for alert in self.alerts]

    async def __call__(self, scope, receive, send) -> None:
        request = Request(scope, receive)
        body = json.loads(await request.body())
        self.requests += 1
        fault = self.next.popleft() if self.next else self.always
        status, headers = fault if isinstance(fault, tuple) else (fault, {})
        if isinstance(status, int):
            answer = JSONResponse({"error": "as asked"}, status_code=status, headers=headers)
            await answer(scope, receive, send)
            return
        self._take(request, body)
        if status in {"drop", "slow"}:
            if status == "slow":
                await _silence(60, receive)
            await _cut(receive, send)
            return
        await JSONResponse({"success": True})(scope, receive, send)

    def _take(self, request: Request, body: dict[str, Any]) -> None:
        self._expect(request.method == "POST", request.method)
        self._expect(request.headers["content-type"] == "application/json", "content type")
        if request.url.path == "/api/training/local/metrics":
            self._expect(request.headers.get("authorization") == f"Bearer {TOKEN}", "token")
            self._expect("x-api-key" not in request.headers, "a key of another")
            self._expect(set(body) == {"job_id", "metrics"}, str(set(body)))
            for point in body["metrics"]:
                self._check_point(point)
            self.points += body["metrics"]
            self.batches.append(len(body["metrics"]))
            if self.on_points:
                self.on_points()
        else:
            self._expect(request.url.path == "/api/alerts/trigger", request.url.path)
            self._expect(request.headers.get("x-api-key") == KEY, "key")
            self._expect("authorization" not in request.headers, "a token of another")
            self._check_alert(body)
            self.alerts.append(body)
        self.job_ids.add(body["job_id"])

    def _check_point(self, point: dict[str, Any]) -> None:
        self._expect(set(point) <= NUMBERS | {"timestamp"}, f"unknown: {set(point)}")
        self._expect({"step", "timestamp"} <= set(point), f"missing: {set(point)}")
        for name in NUMBERS & set(point):
            self._expect(type(point[name]) in {int, float}, f"{name} = {point[name]!r}")
        self._expect(type(point["step"]) is int and type(point.get("epoch", 0)) is int, "ints")
        datetime.strptime(point["timestamp"], "%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: DTZ007

    def _check_alert(self, alert: dict[str, Any]) -> None:
        self._expect(set(alert) <= TEXTS | COUNTS, f"unknown: {set(alert)}")
        self._expect(alert["type"] in TYPES, alert["type"])
        self._expect(alert["status"] in {"running", "completed", "failed"}, alert["status"])
        self._expect(alert["user_id"] == USER, "user")
        for name in TEXTS & set(alert):
            self._expect(isinstance(alert[name], str), f"{name} = {alert[name]!r}")
        for name in COUNTS & set(alert):
            self._expect(type(alert[name]) in {int, float}, f"{name} = {alert[name]!r}")
        self._expect(0 <= alert["progress"] <= 100, f"{alert['progress']} percent")

    def _expect(self, so: bool, what: str) -> None:
        if not so:
            self.problems.append(what)


def lines_of(steps, *, attempt: int = 1, total: int = 1000, evaluate: int = 0) -> str:
    """Return lines of a metrics.jsonl as the trainer writes them."""
    lines = []
    for step in steps:
        common = {
            "step": step,
            "total_steps": total,
            "epoch": step / 100,
            "attempt": attempt,
            "timestamp": "2026-01-01T10:00:00.000+00:00",
        }
        numbers = {
            "train_loss": 5 / (step + 1),
            "perplexity": 2.0,
            "learning_rate": 5e-5,
            "grad_norm": 0.5,
            "tokens_per_second": 900.0,
            "samples_per_second": 12.5,
            "eta_seconds": 3.0,
            "gpu_memory_allocated_gb": None,
            "gpu_memory_reserved_gb": None,
            "gpu_utilization_percent": None,
            "cpu_percent": 99.0,
            "ram_gb": 0.5,
        }
        lines.append(json.dumps(common | numbers))
        if evaluate and step % evaluate == 0:
            lines.append(json.dumps(common | {"eval_loss": 0.42, "perplexity": 1.5}))
    return "".join(f"{line}\n" for line in lines)


class Growing(threading.Thread):
    """Appends steps to a metrics file, one at a time, as a trainer does."""

    def __init__(self, path, steps, pause: float) -> None:
        super().__init__(daemon=True)
        self._path, self._steps, self._pause = path, steps, pause

    def run(self) -> None:
        for step in self._steps:
            with self._path.open("a") as stream:
                stream.write(lines_of([step]))
            time.sleep(self._pause)
