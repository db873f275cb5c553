"""A clock that nobody sets: it goes on while this computer sleeps, and all its processes share it."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path

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
