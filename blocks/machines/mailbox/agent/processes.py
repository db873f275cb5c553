"""Commands that run on the machine, each in a group of its own that dies with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

from blocks.machines.mailbox.agent.refused import Refused

TAIL = 1 << 20  # bytes kept of each output of a command, from its end
UNREAD_SECONDS = 300.0  # that a command goes on although nobody reads what it prints
CLOSE_SECONDS = 1.0  # for the outputs to close after the group was killed
LOOK_SECONDS = 5.0  # between two looks at whether somebody reads


class Process:
    """One command."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._group = 0
        self._given_up = False

    def kill(self) -> None:
        """End the group, or never let it begin."""
        with self._lock:
            self._given_up = True
            self._end()

    def run(self, wanted: Mapping[str, Any], read_at: Mapping[str, float]) -> dict[str, Any]:
        """Run it to its end and return how it ended.

        Args:
            wanted: the command, its env and cwd, and how many seconds it may take. Without `seconds`
                it goes on for as long as somebody reads the file `while_read`.
            read_at: when each file was read last.
        """
        with self._lock:
            if self._given_up:
                raise Refused("refused", "it was given up before it began")
            try:
                process = spawn(wanted, subprocess.PIPE)
            except OSError as error:
                why = f"{wanted['command'][0]}: {error}"
                return {"exit_code": 127, "stdout": "", "stderr": why}
            self._group = process.pid
        outputs = [_Tail(pipe) for pipe in (process.stdout, process.stderr) if pipe]
        try:
            in_time = _ends(process, wanted, read_at)
        finally:
            # The leader may be reaped already. Its number still names the group as long as one
            # member lives, and Linux gives it to no new process before.
            with self._lock:
                self._end()
                self._group = 0
        out, err = (output.text() for output in outputs)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a disk that hangs holds it
            process.wait(CLOSE_SECONDS)
        code = -signal.SIGKILL if process.returncode is None else process.returncode
        return {"exit_code": code, "stdout": out, "stderr": err, "timed_out": not in_time}

    def _end(self) -> None:
        if self._group:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._group, signal.SIGKILL)


def spawn(wanted: Mapping[str, Any], output: int) -> subprocess.Popen[bytes]:
    """Start a command as the leader of its own session.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(  # noqa: S603 - a list, never through a shell
        wanted["command"],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env={**os.environ, **(wanted.get("env") or {})},
        cwd=wanted.get("cwd"),
        start_new_session=True,
    )


def _ends(
    process: subprocess.Popen[bytes], wanted: Mapping[str, Any], read_at: Mapping[str, float]
) -> bool:
    """Wait for the leader's end; False when its time is up first."""
    seconds, output = wanted.get("seconds"), wanted.get("while_read")
    began = time.monotonic()
    while True:
        left = LOOK_SECONDS if seconds is None else began + seconds - time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(LOOK_SECONDS, max(0.0, left)))
            return True
        # Whoever wanted what it prints has gone, and nobody would ever end it.
        unread = output and time.monotonic() - read_at.get(output, began) > UNREAD_SECONDS
        if left <= 0 or unread:
            return False


class _Tail:
    """The end of an output, kept as it comes."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._kept = bytearray()
        self._reader = threading.Thread(target=self._keep, args=(pipe,), daemon=True)
        self._reader.start()

    def text(self) -> str:
        """Return it; what is not UTF-8 is replaced."""
        self._reader.join(CLOSE_SECONDS)  # a process that left the group may hold the pipe open
        return bytes(self._kept[-TAIL:]).decode(errors="replace")

    def _keep(self, pipe: IO[bytes]) -> None:
        with pipe, contextlib.suppress(OSError):
            while chunk := os.read(pipe.fileno(), 1 << 16):
                self._kept += chunk
                if len(self._kept) > 2 * TAIL:
                    del self._kept[:-TAIL]
