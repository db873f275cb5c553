"""Processes of this computer: one run to its end with its whole group, one set free."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

from blocks.machines.base import CANNOT_START, CommandResult
from blocks.machines.lines import Tail
from trainer.contract.errors import DependencyError

CLOSE_SECONDS = 1.0  # for the outputs to close after the group was killed


class _Capture(asyncio.SubprocessProtocol):
    """Keeps the end of each output, and reports the exit apart from the end of the outputs.

    asyncio's own `Process.wait` waits for both in Python 3.11 and 3.12, so that a grandchild
    with an inherited output would keep it waiting.
    """

    def __init__(self) -> None:
        self.tails = {1: Tail(), 2: Tail()}
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.tails[fd].feed(data)

    def process_exited(self) -> None:
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


async def run_captured(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None,
    cwd: str | None,
) -> CommandResult:
    """Run a command as `Machine.run` promises."""
    output = _Capture()
    spawning = asyncio.ensure_future(
        asyncio.get_running_loop().subprocess_exec(
            lambda: output,
            *command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(env),
            cwd=cwd,
            start_new_session=True,
        )
    )
    try:
        # Shielded: a process that starts while we are being cancelled must be known, to be ended.
        transport, _ = await asyncio.shield(spawning)
        await output.exited.wait()
    except OSError as error:
        reason = f"{command[0]}: {error}"
        return CommandResult(exit_code=CANNOT_START, stdout="", stderr=reason)
    finally:
        await _end(spawning, output)
    exit_code = transport.get_returncode()
    assert exit_code is not None  # noqa: S101 - it exited
    return CommandResult(
        exit_code=exit_code, stdout=output.tails[1].text(), stderr=output.tails[2].text()
    )


async def _end(
    spawning: asyncio.Future[tuple[asyncio.SubprocessTransport, _Capture]], output: _Capture
) -> None:
    """Kill what is left of the group and close the pipes.

    The spawning is awaited and not cancelled: otherwise what it started could not be found.
    """
    # It may have failed to start, and then there is nothing to kill.
    [outcome] = await asyncio.gather(spawning, return_exceptions=True)
    if isinstance(outcome, BaseException):
        return
    transport, _ = outcome
    # The leader may be reaped already. Its number still names the group as long as one member
    # lives, and Linux gives it to no new process before.
    kill_group(transport.get_pid())
    with suppress(TimeoutError):  # a process that left the group may hold them open
        async with asyncio.timeout(CLOSE_SECONDS):
            await output.closed.wait()
    # Closes our ends of the pipes too, which a process that left the group may hold for ever.
    transport.close()


def start_detached(
    command: Sequence[str], *, env: Mapping[str, str] | None, cwd: str | None
) -> None:
    """Start a command as `Machine.start` promises."""
    try:
        process = subprocess.Popen(  # noqa: S603 - a list, never through a shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=_environment(env),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as error:
        raise DependencyError(
            f"{command[0]} cannot be started: {error.strerror}: {error.filename!r}."
        ) from error
    # While this process lives it is the parent and must collect the exit code: otherwise the dead
    # process stays in the table as a zombie and looks alive.
    threading.Thread(target=process.wait, name=f"reap {process.pid}", daemon=True).start()


def kill_group(leader: int) -> None:
    """Kill every process of a group, at once; fine when none is left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, **(env or {})}
