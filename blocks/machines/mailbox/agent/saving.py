"""What the jobs on a machine are asked when the machine is taken back."""

from __future__ import annotations

import contextlib
import fcntl
import json
from pathlib import Path

SAVE_SECONDS = 90  # of the two minutes that there are at most


def jobs(base: Path) -> list[Path]:
    """Return the job directories."""
    return sorted((base / "jobs").glob("*"))


def at_work(base: Path) -> bool:
    """Whether a job is being worked on."""
    return any(map(_is_occupied, jobs(base)))


def ask_to_save(base: Path) -> None:
    """Ask every job that is worked on to save and stop; an earlier request is left as it is."""
    for job in filter(_is_occupied, jobs(base)):
        control = job / "control.json"
        if _asked(control) in {"stop", "pause"}:
            continue
        reason = "the provider takes the machine back"
        wanted = {"desired": "stop", "grace_seconds": SAVE_SECONDS, "reason": reason}
        fresh = job / ".control.json.agent"
        fresh.write_text(json.dumps(wanted), encoding="utf-8")
        fresh.replace(control)


def _asked(control: Path) -> str:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return str(json.loads(control.read_bytes()).get("desired"))
    return ""


def _is_occupied(job: Path) -> bool:
    # Supervisor and trainer hold its lock.
    with contextlib.suppress(OSError), (job / ".lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
