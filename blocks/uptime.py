"""A clock that nobody sets: it goes on while this computer sleeps, and all its processes share it."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

# CLOCK_MONOTONIC stands still on Linux while the computer is suspended; elsewhere there is only it.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime() -> float:
    """Return the seconds since this computer was started; time that it was suspended counts."""
    return time.clock_gettime(_CLOCK)


@cache
def boot_id() -> str:
    """Return what names this start of the computer; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment that a later process, perhaps on another computer, can count the seconds from."""

    time: float
    """Unix seconds, as the clock was set then."""
    boot: str
    """`boot_id` then."""
    uptime: float
    """`uptime` then."""

    @classmethod
    def now(cls) -> Self:
        """Return this moment."""
        return cls(time.time(), boot_id(), uptime())

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self | None:
        """Return what `to_dict` gave; None when it is nothing of that kind."""
        try:
            return cls(float(record["time"]), str(record["boot"]), float(record["uptime"]))
        except (KeyError, TypeError, ValueError):
            return None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    def seconds_since(self) -> float:
        """Return how long ago it was, in seconds; by a clock that nobody sets, where there is one."""
        if self.boot and self.boot == boot_id():
            return max(0.0, uptime() - self.uptime)
        # This computer was started anew, or this is another one, whose uptime says nothing.
        return max(0.0, time.time() - self.time)
