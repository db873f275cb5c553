"""Starting, signalling and ending processes for the supervisor. Standard library only."""

from __future__ import annotations

import atexit
import ctypes
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn, Self

from trainer.contract.signals import pass_over_notice, requests

CANNOT_START = 127  # the exit code of shells for a command that was not found
PR_SET_PDEATHSIG, PR_SET_NAME = 1, 15  # from linux/prctl.h
IMPORTED: dict[tuple[str, ...], Callable[[str], Callable[[str], int] | None]] = {}
"""In a warm process (see `trainer.supervision.warm`): commands but for their last word, whose modules
it has imported. The value returns for the last word what does the same here, or None where only a
process of its own will do."""
READ_AT_IMPORT = ("OMP_", "MKL_", "OPENBLAS_", "GOMP_", "KMP_")
"""How variables begin that decide, when torch and numpy are loaded, how many threads compute."""
OF_LIBRARIES: set[int] = set()
"""Descriptors that libraries of a warm process have opened, and may use."""
# Loaded here: between fork and exec nothing may be.
_C = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies; for `preexec_fn` of one thread."""
    if _C is not None:
        _C.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # prctl(2)


def name_process(name: str) -> None:
    """Give this process a name for ps and top, of at most 15 letters; its words stay as they are."""
    if _C is not None:
        _C.prctl(PR_SET_NAME, name.encode())  # prctl(2)


class Bell:
    """Wakes its waiter at once when a child ended or a signal came, and counts requests to end.

    Which signals are requests: see `trainer.contract.signals`. SIGHUP is ignored: training outlives the terminal.
    """

    def __init__(self) -> None:
        self.requests: list[str] = []
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        # Python requires it for a wakeup descriptor: the C handler must never block.
        # https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd
        os.set_blocking(writer, False)
        # Without it a signal between poll() and select() would wait for the next tick: since PEP
        # 475 select() is resumed after a handler that does not raise.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        # The default disposition ignores SIGCHLD, and then no byte is written to the pipe.
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        pass_over_notice()
        for number in requests():
            signal.signal(number, self._request)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.requests.append(signal.Signals(number).name)

    def wait(self, seconds: float) -> None:
        """Sleep for `seconds`, or until something happens."""
        if select.select([self._reader], [], [], seconds)[0]:
            # Drain it, or the next wait would return at once for events that were seen already.
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
        locks: Sequence[int],
        group: int = 0,
        variables: Mapping[str, str] | None = None,
        silent: bool = False,
    ) -> None:
        """Start `command` behind its gate.

        Args:
            command: the program and its arguments.
            log: what standard output and error are appended to, without a pipe between: it
                goes on when the supervisor is gone.
            locks: descriptors of the locks of job directory and GPUs, which the trainer holds too.
            group: the process group that it joins; 0: one of its own.
            variables: what is added to its environment.
            silent: discard standard output.
        """
        # Pipes of Python are close-on-exec (PEP 446), so the trainer itself inherits no end of it.
        gate, self._opener = os.pipe()
        # A request that comes between fork and exec must end the child. Unblocked, it would run our
        # handler in the copy of this process, be counted there, and be lost at exec.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, requests())
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            # The child's copy of the write end: as long as it is open, the read below never sees
            # the end of file that tells it that its starter has died.
            os.close(self._opener)
            _become(
                command,
                log=log,
                locks=locks,
                gate=gate,
                mask=mask,
                group=group,
                variables=variables or {},
                silent=silent,
            )
        self._group = group or self.pid
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(gate)
        # Parent and child both set the group, as either may run first; without this one a signal to
        # the group could come before the child has joined it.
        with suppress(OSError):
            os.setpgid(self.pid, self._group)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_gate()
        # The whole group: data loaders, or the command that the trainer runs, would otherwise keep
        # the GPU's memory from the next attempt.
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
            # Not reaped yet, so the pid is still ours even if the process has ended.
            os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        """Send a signal to the trainer and every process that it started."""
        # macOS answers EPERM when only zombies are left in a group.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._group, number)

    def _close_gate(self) -> None:
        if self._opener >= 0:
            os.close(self._opener)
            self._opener = -1


def detach(work: Callable[[Callable[[], None]], int], log: Path) -> int:
    """Run `work(announce)` in a process with its own session; the result is the exit code.

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
        # The second fork of daemon(7).
        if os.fork():  # a process that leads no session can never get a terminal
            os._exit(0)
        _detached(work, log, writer)
    os.close(writer)
    os.waitpid(child, 0)
    # Reads to the end of file: the pid comes first, and the end when `announce` closes the writer
    # or the process dies. Until then the caller must not report a start that may yet fail.
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
    locks: Sequence[int],
    gate: int,
    mask: set[int | signal.Signals],
    group: int,
    variables: Mapping[str, str],
    silent: bool,
) -> NoReturn:
    """Turn this forked process into the trainer."""
    try:
        # Nothing of the supervisor's signal handling may survive exec: ignored signals are
        # inherited (SIGPIPE is ignored by Python), and SIGHUP stays ignored on purpose.
        os.setpgid(0, group)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # No byte means end of file: the supervisor died before its record of this pid was on disk.
        if os.read(gate, 1):
            _redirect(log, silent=silent)
            # These locks belong to the open file: with this copy directory and GPUs stay locked as
            # long as the trainer lives, even if the supervisor is killed.
            for lock in locks:
                os.set_inheritable(lock, True)  # noqa: FBT003  its only parameter
            settings = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
            serves = IMPORTED.get(tuple(command[:-1]))
            if _read_before(variables):
                serves = None
            if serves and (main := serves(command[-1])):
                os.environ.update({**settings, **variables})
                _close_as_exec_would()
                _run_here(main, command)
            os.execvpe(command[0], list(command), {**os.environ, **settings, **variables})  # noqa: S606  no shell is meant
    except OSError as error:
        os.write(2, f"cannot start {command[0]!r}: {error.strerror}\n".encode())
    finally:
        # Never return: this is a copy of the supervisor, with its stack and its atexit handlers.
        os._exit(CANNOT_START)


def _read_before(variables: Mapping[str, str]) -> bool:
    """Whether libraries that are imported already have read another value of one of these."""
    return any(
        name.startswith(READ_AT_IMPORT) and os.environ.get(name) != value
        for name, value in variables.items()
    )


def _close_as_exec_would() -> None:
    """Let go of what is the supervisor's: somebody waits for the end of its pipes."""
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208  only their names
        with suppress(OSError):  # the one by which the folder is read is closed already
            if (number := int(entry)) not in OF_LIBRARIES and not os.get_inheritable(number):
                os.close(number)


def _run_here(main: Callable[[str], int], command: Sequence[str]) -> NoReturn:
    """Do in this forked process what a new one would do, to its end."""
    code = 1
    try:
        name_process("trainer")
        sys.argv = [*command[-2:]]
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # As Python has it from its start: a peer that hangs up is an error, and not the end.
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        code = main(command[-1])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  as at the end of any Python program
        traceback.print_exc()
    finally:
        # As Python ends a process, but without unwinding: the frames below are the supervisor's.
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        if _C is not None:
            _C.fflush(None)
        os._exit(code & 0xFF)


def _redirect(log: Path, *, silent: bool = False) -> None:
    """Empty standard input, and append standard output and error to `log`."""
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    # O_APPEND: several processes write to one log, and each write must land at its end.
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(0 if silent else output, 1)
    os.dup2(output, 2)
