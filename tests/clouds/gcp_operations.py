"""The operations of the local Google Cloud: what was accepted, and what came of it."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Work = Callable[[], Awaitable[Mapping[str, Any] | None]]
"""What an operation does at its end; the error that it fails with, or None."""


def stamp(moment: float) -> str:
    """Return a Unix time as Google writes it."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds")


@dataclass
class Operation:
    """One operation."""

    kind: str
    """Such as insert, or compute.instances.preempted."""
    zone: str
    """Empty: of the project."""
    target: str
    """What it is about, such as instances/NAME."""
    request_id: str
    url: str
    """Of the project."""
    name: str = field(default_factory=lambda: f"operation-{secrets.token_hex(8)}")
    inserted: float = field(default_factory=time.time)
    ended: float | None = None
    error: Mapping[str, Any] | None = None
    user: str = "trainer@local-project.iam.gserviceaccount.com"

    def json(self) -> dict[str, Any]:
        """Return it as the API does."""
        scope = f"zones/{self.zone}" if self.zone else "global"
        failed = {}
        if self.error is not None and self.ended is not None:
            failed = {"error": {"errors": [dict(self.error)]}, "httpErrorStatusCode": 503}
        return {
            "kind": "compute#operation",
            "id": str(int(self.name[-8:], 16)),
            "name": self.name,
            "operationType": self.kind,
            "status": "RUNNING" if self.ended is None else "DONE",
            "progress": 0 if self.ended is None else 100,
            "targetLink": f"{self.url}/{scope}/{self.target}",
            "selfLink": f"{self.url}/{scope}/operations/{self.name}",
            "insertTime": stamp(self.inserted),
            "user": self.user,
            **({"clientOperationId": self.request_id} if self.request_id else {}),
            **({"zone": f"{self.url}/zones/{self.zone}"} if self.zone else {}),
            **failed,
        }


class Operations:
    """All operations of a project."""

    def __init__(self, keep: Callable[[asyncio.Task[None]], None]) -> None:
        """Begin.

        Args:
            keep: takes the task of each, to hold it and to hear of its errors.
        """
        self._keep = keep
        self.all: list[Operation] = []

    def repeated(self, request_id: str) -> Operation | None:
        """Return the operation that a request with this id has begun."""
        found = [one for one in self.all if request_id and one.request_id == request_id]
        return found[0] if found else None

    def begin(self, operation: Operation, seconds: float, work: Work) -> Operation:
        """Accept an operation; it is done after some seconds."""
        self.all.append(operation)

        async def run() -> None:
            await asyncio.sleep(seconds)
            operation.error = await work()
            operation.ended = time.time()

        self._keep(asyncio.get_running_loop().create_task(run()))
        return operation

    def note(self, operation: Operation) -> None:
        """Add one that is done: it was nobody's request."""
        operation.ended, operation.user = time.time(), "system"
        self.all.append(operation)

    def matching(self, zone: str, filter: str) -> list[Operation]:
        """Return the operations of a zone whose targetLink a regular expression matches whole."""
        match = re.fullmatch(r"targetLink eq (.*)", filter)
        assert match or not filter, f"a filter that nobody knows: {filter}"
        pattern = match[1] if match else ".*"
        return [
            one
            for one in self.all
            if one.zone == zone and re.fullmatch(pattern, one.json()["targetLink"])
        ]
