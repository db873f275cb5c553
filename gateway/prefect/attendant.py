"""Looks after the runs of this computer where no worker does: `python -m gateway.prefect.attendant`.

`trainctl run` starts it, in the background, with its own environment: the keys of providers are
there and nowhere else. It looks once a minute, only at files, and starts `trainctl reconcile`
when the process of a run has died, or when a machine is left and no process executes its run. It
sends the messages that had to wait for longer than their flow. It ends when no run is unfinished, no
machine is left and no message waits. Nothing here imports Prefect, or asyncio.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from blocks.home import home, instances, runs
from flows.attended import MARK, is_left, is_marked, is_worked_on
from flows.locks import is_held
from flows.notifying.waiting import folders_with_messages
from trainer.contract.files import read_json
from trainer.contract.garbage import search_seldom
from trainer.contract.own_python import own_python

SECONDS = "TRAINING_ORCHESTRATOR_ATTEND_SECONDS"
"""The variable with the seconds between two looks; with 0 no attendant is started."""
LOOK_SECONDS = 60.0
LONGEST_SHARE = 16  # looks at most between two reconciles that changed nothing
FORGOTTEN_SECONDS = 24 * 3600.0  # after which reconcile no longer revives a run
END_SECONDS = 10.0
# Kept, because Python warns (ResourceWarning) when a Popen is collected whose process still runs.
_started: list[subprocess.Popen[bytes]] = []


def start(*, replace: bool) -> None:
    """Start an attendant with this environment; another one stays, or with `replace` ends."""
    if not is_on() or (not replace and is_held(_lock())):
        return
    stop()
    environment = dict(os.environ)
    # Our own server may come back on another port, so its address is looked up when it is needed;
    # an address that the user configured is passed on.
    ours = (read_json(home() / "server.json") or {}).get("url")
    if environment.get("PREFECT_API_URL") == ours:
        environment.pop("PREFECT_API_URL", None)  # it may have another port when it is wanted
    with _log().open("ab") as log:
        _started.append(
            subprocess.Popen(  # noqa: S603 - our own interpreter
                own_python("-m", "gateway.prefect.attendant"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                # Away from the terminal: closing it, or Ctrl-C, must not end the attendant.
                start_new_session=True,
            )
        )


def stop() -> None:
    """End the attendant, if there is one; a reconcile that it started goes on."""
    if not is_held(_lock()):
        return
    with suppress(OSError, ValueError):
        os.kill(int(_lock().read_text()), signal.SIGTERM)


def is_on() -> bool:
    """Return whether `trainctl run` starts an attendant here."""
    return _look_seconds() > 0


def why_no_schedule() -> str | None:
    """Return why the runs of this computer need no schedule of reconcile; None if they need one."""
    if not is_on():
        return None
    if is_held(_lock()):
        return "the attendant of 'trainctl run' looks after the runs of this computer"
    if unfinished():
        return None
    return "no run of this computer is unfinished; 'trainctl run' starts an attendant"


def main() -> int:
    """Attend to the runs until none is left that needs it."""
    descriptor = os.open(_lock(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if not _taken(descriptor):
        return 1  # another one is at work and does the same
    # The pid is written under the lock, so a lock that is held always names its holder.
    os.truncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    look = _look_seconds()
    before: set[str] = set()
    pause, again = look, 0.0
    messages = Messages(look)
    while unfinished() or folders_with_messages():
        # First sleep, then look: a run has just begun, and nothing can need to be put right yet.
        time.sleep(look)
        left = left_alone()
        _started[:] = [process for process in _started if process.poll() is None]
        # A new case is taken up at once, even while a reconcile is held up by an old one; one that
        # a reconcile did not settle is tried again ever more seldom.
        if left - before or (left and not _started and time.monotonic() >= again):
            _say(f"reconciling: {', '.join(sorted(left))}")
            _started.append(subprocess.Popen(own_python("-m", "gateway", "reconcile")))  # noqa: S603
            pause = min(2 * pause, LONGEST_SHARE * look) if left == before else look
            again = time.monotonic() + pause
        before = left
        messages.send()
    return 0


class Messages:
    """Sends what waits; a receiver that takes nothing is tried ever more seldom."""

    def __init__(self, look: float) -> None:
        self._look = self._pause = look
        self._again = 0.0
        self._before: set[Path] = set()

    def send(self) -> None:
        """Start a process that sends, if there is something to send."""
        waiting = set(folders_with_messages())
        if waiting and (waiting - self._before or time.monotonic() >= self._again):
            _started.append(subprocess.Popen(own_python("-m", "flows.notifying")))  # noqa: S603
            longer = min(2 * self._pause, LONGEST_SHARE * self._look)
            self._pause = longer if waiting == self._before else self._look
            self._again = time.monotonic() + self._pause
        self._before = waiting


def unfinished() -> bool:
    """Whether there is something to do: a run that was to be executed here, or a machine."""
    return any(_is_awaited(folder) or _machines(folder) for folder in _run_folders())


def left_alone() -> set[str]:
    """Return the runs whose process died, and those that hold a machine without being worked on."""
    return {
        folder.name
        for folder in _run_folders()
        if (is_left(folder) and _is_awaited(folder))
        or (not is_worked_on(folder) and any(until < time.time() for until in _machines(folder)))
    }


def _is_awaited(folder: Path) -> bool:
    """Whether a run is marked, and not for so long that reconcile has given it up."""
    try:
        # Wall-clock time, since the file was written by another process, perhaps before a reboot.
        age = time.time() - (folder / MARK).stat().st_mtime
    except OSError:
        return False
    return age < FORGOTTEN_SECONDS or (is_marked(folder) and not is_left(folder))


def _machines(folder: Path) -> list[float]:
    """Return, for each rented machine that a run holds, the Unix time until which it is kept."""
    rows = (read_json(folder / "machines.json") or {}).get("machines") or []
    at_home = str(instances())
    return [
        float(row.get("kept_until") or 0.0)
        for row in rows
        # A job directory of this computer costs nothing and is no reason to stay.
        if row.get("ended_at") is None and not str(row.get("workspace")).startswith(at_home)
    ]


def _run_folders() -> list[Path]:
    return [folder for folder in runs().iterdir() if folder.is_dir()]


def _taken(descriptor: int) -> bool:
    """Take the lock, whose holder was asked to end; return whether it came free in time."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            # The kernel drops the lock with the process, so a crash leaves nothing to clean up.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.1)
    return False


def _look_seconds() -> float:
    try:
        return max(0.0, float(os.environ.get(SECONDS) or LOOK_SECONDS))
    except ValueError:
        return LOOK_SECONDS


def _lock() -> Path:
    return home() / "attendant.lock"


def _log() -> Path:
    return home() / "attendant.log"


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    search_seldom()
    sys.exit(main())
