"""What can go wrong between a caller and a cloud, asked for by a test."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal[
    "status",  # answer this status and body
    "html",  # answer with a page, as a front does
    "truncated",  # answer well, and cut the JSON in the middle
    "empty",  # answer well, without a body
    "drop",  # close the connection without an answer
    "silence",  # say nothing for `seconds`, then close the connection
    "commit_then_status",  # do what is asked, then answer this status and body
    "commit_then_drop",  # do what is asked, then close the connection
    "commit_then_silence",  # do what is asked, then say nothing
    "delay",  # answer well, after `seconds`
    "drip",  # do what is asked, then send blanks, one after the other, for `seconds`
]


@dataclass(kw_only=True)
class Fault:
    """One kind of trouble, for a number of requests that match."""

    kind: Kind
    method: str = ""
    """Of HTTP; empty: any."""
    path: str = ""
    """A regular expression that is searched for in the path."""
    times: float = 1
    """How many requests it affects; `math.inf`: all."""
    status: int = 500
    body: Any = None
    """JSON value, or text that is sent as it is."""
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 5.0

    @property
    def commits(self) -> bool:
        """Whether the request takes effect."""
        return self.kind.startswith("commit") or self.kind in {
            "truncated",
            "empty",
            "delay",
            "drip",
        }


class Faults:
    """The troubles that are still to come, the oldest first."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, *faults: Fault) -> None:
        """Make these troubles happen."""
        with self._lock:
            self._waiting += faults

    def clear(self) -> None:
        """Make no more trouble."""
        with self._lock:
            self._waiting.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """Return what happens to a request, and count it."""
        with self._lock:
            for fault in self._waiting:
                if fault.method in {"", method} and re.search(fault.path, path):
                    fault.times -= 1
                    if fault.times <= 0:
                        self._waiting.remove(fault)
                    return fault
        return None
