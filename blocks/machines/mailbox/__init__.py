"""A machine that nothing can connect to: it is reached through a bucket that it looks into."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from typing_extensions import override

from blocks.machines.base import (
    FOLLOW_CHUNK,
    RUN_SECONDS,
    CommandResult,
    Machine,
    Transfer,
)
from blocks.machines.lines import LineWriter
from blocks.machines.mailbox.post import Post
from blocks.machines.mailbox.transfer import PIECE, SECONDS, checked, download, upload
from blocks.machines.setup import setup_failed, setup_script
from blocks.stores.bucket import Bucket
from blocks.task_scope import TaskScope
from trainer.contract.errors import ConnectionLost

LATE_SECONDS = 30.0  # for a command and its answer to come, besides what the command takes
FOLLOW_WAIT = 20.0  # seconds for which the agent waits until a file grows
LINGER = 2.0  # seconds for which it then waits for more: every answer costs the same
LONGEST_POLL = 0.5


class MailboxMachine(Machine):
    """Needs the agent there (`blocks.machines.mailbox.agent`), and a bucket that both can write to.

    Whoever may write to the bucket may run commands on the machine.

    Raises, in every verb:
        ConnectionLost: the bucket or the agent does not answer, or what it was asked for hangs.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        where: str = "the machine",
        linger: float = LINGER,
        longest_poll: float = LONGEST_POLL,
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            bucket: the mailbox.
            where: what the machine is called in messages.
            linger: seconds for which the agent waits for more of a file that has grown.
            longest_poll: seconds at most between two looks for an answer.
        """
        self._post = Post(bucket, where, longest_poll)
        self._where = where
        self._linger = linger

    @override
    async def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
    ) -> CommandResult:
        seconds = RUN_SECONDS if timeout is None else timeout
        wanted = {**_command("run", command, env, cwd), "seconds": seconds}
        answer = await self._run(wanted, seconds + LATE_SECONDS)
        if not answer.pop("timed_out", False):
            return CommandResult(**answer)
        if timeout is not None:
            raise TimeoutError
        raise ConnectionLost(
            f"{self._where} does not run {command[0]!r} within {RUN_SECONDS:g} s.",
            "Look at the machine: its disk may hang, or its memory be used up.",
        )

    @override
    async def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> None:
        wanted = _command("start", command, env, cwd)
        answer, _ = await self._post.ask(wanted, seconds=RUN_SECONDS)
        checked(answer, command[0])

    @override
    async def follow(self, path: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        wait = {"wait": FOLLOW_WAIT, "linger": self._linger}
        while True:
            piece = await self._read(path, offset, wait)
            for begin in range(0, len(piece), FOLLOW_CHUNK):
                chunk = piece[begin : begin + FOLLOW_CHUNK]
                offset += len(chunk)
                yield chunk

    @override
    async def upload(self, local: Path, remote: str) -> Transfer:
        return await upload(self._post, local, remote)

    @override
    async def download(self, remote: str, local: Path, *, limit: int | None = None) -> Transfer:
        return await download(self._post, remote, local, limit)

    @override
    async def read(self, path: str) -> bytes | None:
        content = b""
        with suppress(FileNotFoundError):
            while piece := await self._read(path, len(content), {"wait": 0}):
                content += piece
                if len(piece) < PIECE:
                    break
            return content
        return None

    @override
    async def write(self, path: str, content: bytes) -> None:
        answer, _ = await self._post.ask({"do": "put", "path": path}, content, seconds=SECONDS)
        checked(answer, path)

    @override
    async def run_shell(
        self,
        lines: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str,
        log: Callable[[str], None],
    ) -> None:
        # Through files: what it prints is read while it runs, and outlives a lost answer.
        folder = f"/tmp/training-orchestrator-{uuid4().hex}"  # noqa: S108 - nobody can guess it
        script, output, failed = (f"{folder}/{name}" for name in ("script", "output", "failed"))
        writer = LineWriter(log)
        text = "\n".join(setup_script(lines, output=f">{output}", failed=f">{failed}"))
        await self.write(script, text.encode())
        wanted = {**_command("run", ["bash", script], env, cwd), "while_read": output}
        try:
            async with TaskScope() as scope:
                scope.start(self._pass_on(output, writer))
                answer = await scope.result_of(self._run(wanted, None))
            while piece := await self._rest(output, writer.received):
                writer.feed(piece)
            noted = (await self.read(failed) or b"").decode(errors="replace")
        finally:
            writer.finish()
            await self._clean(folder)
        if answer["exit_code"]:
            raise setup_failed(noted, answer["exit_code"], writer.last)

    @override
    async def close(self) -> None:
        pass  # nothing is held open

    async def _run(self, wanted: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
        """Run a command to its end; when that is given up, the command ends too."""
        sending = asyncio.ensure_future(self._post.send(wanted))
        try:
            number = await asyncio.shield(sending)
            answer, _ = await self._post.answer(number, seconds)
        except (asyncio.CancelledError, ConnectionLost):
            await self._give_up(sending)
            raise
        return dict(checked(answer, wanted["command"][0]))

    async def _give_up(self, sending: asyncio.Future[int]) -> None:
        """Let a command end that may be on its way."""

        async def cancel() -> None:
            with suppress(ConnectionLost):
                await self._post.send({"do": "cancel", "number": await sending})

        await _to_its_end(cancel())

    async def _clean(self, folder: str) -> None:
        async def remove() -> None:
            with suppress(ConnectionLost):
                await self._post.send(_command("start", ["rm", "-rf", "--", folder], None, None))

        await _to_its_end(remove())

    async def _read(self, path: str, offset: int, how: Mapping[str, float]) -> bytes:
        wanted = {"do": "read", "path": path, "offset": offset, "length": PIECE, **how}
        answer, piece = await self._post.ask(wanted, seconds=how["wait"] + SECONDS)
        checked(answer, path)
        return piece

    async def _rest(self, path: str, offset: int) -> bytes:
        with suppress(FileNotFoundError):  # it failed before it printed anything
            return await self._read(path, offset, {"wait": 0})
        return b""

    async def _pass_on(self, output: str, writer: LineWriter) -> None:
        async for chunk in self.follow(output):
            writer.feed(chunk)


def _command(
    do: str, command: Sequence[str], env: Mapping[str, str] | None, cwd: str | None
) -> dict[str, Any]:
    return {"do": do, "command": list(command), "env": dict(env or {}), "cwd": cwd}


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do something that must be done even by what is being cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
