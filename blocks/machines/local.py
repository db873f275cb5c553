"""This computer as a machine."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from prefect_shell import ShellOperation  # type: ignore[import-untyped]
from typing_extensions import override

from blocks.machines.base import (
    FOLLOW_CHUNK,
    FOLLOW_SECONDS,
    CommandResult,
    Machine,
    Transfer,
    small,
)
from blocks.machines.lines import LineWriter
from blocks.machines.processes import kill_group, run_captured, start_detached
from blocks.machines.setup import setup_failed, setup_script
from blocks.machines.transfer import copy_file
from blocks.task_scope import TaskScope
from blocks.threads import in_thread


class LocalMachine(Machine):
    """Runs commands as processes of this computer; a transfer is a copy."""

    @override
    async def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
    ) -> CommandResult:
        async with small(timeout, command[0], "this computer"):
            return await run_captured(command, env=env, cwd=cwd)

    @override
    async def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> None:
        # In a thread: Popen blocks until the new process has called exec, which a slow disk can
        # delay.
        async with small(None, command[0], "this computer"):
            await asyncio.to_thread(start_detached, command, env=env, cwd=cwd)

    @override
    async def follow(self, path: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        file = Path(path)
        while True:
            # Asking for the size costs a microsecond: no thread and no open file while idle.
            if _size(file) > offset:
                chunk = await asyncio.to_thread(_read_at, file, offset)
                offset += len(chunk)
                yield chunk
            else:
                await asyncio.sleep(FOLLOW_SECONDS)

    @override
    async def upload(self, local: Path, remote: str) -> Transfer:
        return await in_thread(partial(copy_file, local, Path(remote)))

    @override
    async def download(self, remote: str, local: Path, *, limit: int | None = None) -> Transfer:
        return await in_thread(partial(copy_file, Path(remote), local, limit=limit))

    @override
    async def read(self, path: str) -> bytes | None:
        # Not by `download`, whose synced copy would wait for the disk while a checkpoint is
        # written.
        with suppress(FileNotFoundError):
            async with small(None, f"read {path}", "this computer"):
                return await asyncio.to_thread(Path(path).read_bytes)
        return None

    @override
    async def run_shell(
        self,
        lines: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str,
        log: Callable[[str], None],
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            output, failed = Path(folder) / "output", Path(folder) / "failed"
            output.touch()
            writer = LineWriter(log)
            # Through a file, because ShellOperation gives up on bytes that are not UTF-8, and
            # because a background process that holds a pipe open would keep us waiting for its end.
            script = setup_script(lines, output=f">{shlex.quote(str(output))}", failed=f">{failed}")
            try:
                async with TaskScope() as scope:
                    scope.start(self._pass_on(output, writer))
                    exit_code = await _run_script(script, env, cwd)
            finally:
                # The task that follows the file ended with the scope, perhaps before the last
                # bytes came.
                for chunk in _rest(output, writer.received):
                    writer.feed(chunk)
                writer.finish()
            if exit_code:
                noted = failed.read_text() if failed.exists() else ""
                raise setup_failed(noted, exit_code, writer.last)

    @override
    async def close(self) -> None:
        pass  # nothing is held open

    async def _pass_on(self, output: Path, writer: LineWriter) -> None:
        async for chunk in self.follow(str(output)):
            writer.feed(chunk)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return 0


def _read_at(file: Path, offset: int) -> bytes:
    with file.open("rb") as stream:
        stream.seek(offset)
        return stream.read(FOLLOW_CHUNK)


def _rest(file: Path, offset: int) -> Iterator[bytes]:
    """Yield what `file` holds from `offset` on."""
    with file.open("rb") as stream:
        stream.seek(offset)
        while chunk := stream.read(FOLLOW_CHUNK):
            yield chunk


async def _run_script(script: list[str], env: Mapping[str, str] | None, cwd: str) -> int:
    """Run a bash script to its end and return its exit code; its whole group ends with it."""
    # Without stream_output: Prefect would log every line a second time, after `log` did.
    operation = ShellOperation(
        commands=script, env=dict(env or {}), working_dir=Path(cwd), stream_output=False
    )
    async with operation:
        process = await operation.atrigger()
        try:
            # It raises RuntimeError for any exit code but 0; the code itself says more.
            with suppress(RuntimeError):
                await process.await_for_completion()
        finally:
            # Closing the operation asks the group to end and waits for it; a group may ignore that.
            kill_group(process.pid)
    # None would mean that it still runs, which the lines above exclude.
    return process.return_code or 0
