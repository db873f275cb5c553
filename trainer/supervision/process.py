"""Starting, signalling and ending processes for the supervisor. Standard library only."""

from __future__ import annotations

import os
import select
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import NoReturn, Self

REQUESTS = frozenset({signal.SIGTERM, signal.SIGINT})
CANNOT_START = 127  # the exit code by which shells say it too


class Bell:
    """Wakes its waiter at once when a child ended or a signal came, and counts requests to end.

    SIGTERM and SIGINT are requests. SIGHUP is ignored: training outlives the terminal.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in REQUESTS:
            signal.signal(number, self._request)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.requests.append(signal.Signals(number).name)

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or until something happens."""
        if select.select([self._reader], [], [], seconds)[0]:
            os.read(self._reader, 512)


class TrainerProcess:
    """The trainer's process, the leader of a process group of its own or a member of one.

    It waits behind a gate until `release()`, so that its process id can be recorded before it
    records anything itself; when its starter dies first, it ends without having started.
    Leaving the context ends every process of the group.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        lock: int,
        group: int = 0,
        variables: Mapping[str, str] | None = None,
        silent: bool = False,
    ) -> None:
        """Start `command` behind its gate.

        Args:
            command: the program and its arguments.
            log: what standard output and error are appended to, without a pipe between: it
                goes on when the supervisor is gone.
            lock: descriptor of the job directory's lock, which the trainer shall hold too.
            group: the process group that it joins; 0: one of its own.
            variables: what is added to its environment.
            silent: let standard output be lost.
        """
        gate, self._opener = os.pipe()
        # A request that comes between fork and exec must end the child, not wake a handler
        # in its copy of this process.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._opener)
            _become(
                command,
                log=log,
                lock=lock,
                gate=gate,
                mask=mask,
                group=group,
                variables=variables or {},
                silent=silent,
            )
        self._group = group or self.pid
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(gate)
        with suppress(OSError):
            os.setpgid(self.pid, self._group)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close_gate()
        self.signal_group(signal.SIGKILL)
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def release(self) -> None:
        """Open the gate."""
        with suppress(BrokenPipeError):  # it was killed at the gate
            os.write(self._opener, b"\n")
        self._close_gate()

    def poll(self) -> int | None:
        """Return the exit code, negative when a signal ended it; None while it lives."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code

    def signal(self, number: int) -> None:
        """Send a signal to the trainer alone, if it lives."""
        if self.code is None:
            os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the trainer and every process that it started."""
        with suppress(ProcessLookupError, PermissionError):  # macOS: only zombies are left
            os.killpg(self._group, number)

    def _close_gate(self) -> None:
        if self._opener >= 0:
            os.close(self._opener)
            self._opener = -1


def detach(work: Callable[[Callable[[], None]], int], log: Path) -> int:
    """Run `work(announce)` in a process of a session of its own; its result is the exit code.

    The process outlives its starter, its terminal and its connection. What goes wrong in it is
    appended to `log`.

    Returns:
        The process id, as soon as `work` called `announce` (once) or ended.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        if os.fork():  # a process that leads no session can never get a terminal
            os._exit(0)
        _detached(work, log, writer)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader, "rb") as stream:
        return int(stream.read())


def _detached(work: Callable[[Callable[[], None]], int], log: Path, writer: int) -> NoReturn:
    code = 1
    try:
        os.write(writer, str(os.getpid()).encode())
        _redirect(log)
        code = work(lambda: os.close(writer))
    except BaseException:  # noqa: BLE001  nobody above would see it
        traceback.print_exc()
    finally:
        os._exit(code)


def _become(
    command: Sequence[str],
    *,
    log: Path,
    lock: int,
    gate: int,
    mask: set[int | signal.Signals],
    group: int,
    variables: Mapping[str, str],
    silent: bool,
) -> NoReturn:
    """Turn this forked process into the trainer."""
    try:
        os.setpgid(0, group)
        signal.set_wakeup_fd(-1)
        for number in (*REQUESTS, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if os.read(gate, 1):
            _redirect(log, silent=silent)
            os.set_inheritable(lock, True)  # noqa: FBT003  its only parameter
            settings = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
            os.execvpe(command[0], list(command), {**os.environ, **settings, **variables})  # noqa: S606  no shell is meant
    except OSError as error:
        os.write(2, f"cannot start {command[0]!r}: {error.strerror}\n".encode())
    finally:
        os._exit(CANNOT_START)


def _redirect(log: Path, *, silent: bool = False) -> None:
    """Let standard input be empty and append standard output and error to `log`."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(0 if silent else output, 1)
    os.dup2(output, 2)
