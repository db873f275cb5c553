"""A machine over SSH."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from uuid import uuid4

from typing_extensions import override

from blocks.machines.base import (
    FOLLOW_CHUNK,
    RUN_SECONDS,
    CommandResult,
    Machine,
    Transfer,
    small,
)
from blocks.machines.lines import LineWriter, Tail
from blocks.machines.setup import setup_failed, setup_script
from blocks.machines.ssh import script as ssh_script
from blocks.machines.ssh import transfer as ssh_transfer
from blocks.machines.ssh.channel import Channel, Cut
from blocks.machines.ssh.connections import Connections, Patience
from blocks.task_scope import TaskScope
from trainer.contract.errors import (
    ConnectionLost,
    DependencyError,
    IntegrityError,
    OrchestratorError,
)

END_SECONDS = 5.0  # from asking a command to end until its exit code must have come
SMALL_FILE = 64 << 20  # bytes; what `read` takes at most
TAKE = 256 << 10  # bytes of an output taken at once


class SshMachine(Machine):
    """Needs sshd and a POSIX shell with the usual tools there, and bash for a job's setup.

    Raises, in every verb:
        ConnectionLost: nothing was heard of it for `patience` seconds, or it can be reached and
            what it was asked for hangs.
        HostKeyChanged: another host key is shown than at the first connection.

    Args:
        address: host name or IP address.
        port: where its sshd listens.
        user: whom to log in as.
        private_key: file of the one key that is offered.
        host_key: file of the host key: written at the first connection, compared at each later.
        patience: seconds without any connection before a verb gives up.
        compress: whether what comes and goes is compressed on its way.
    """

    def __init__(
        self,
        address: str,
        *,
        port: int,
        user: str,
        private_key: Path,
        host_key: Path,
        patience: float = 60.0,
        compress: bool = False,
    ) -> None:
        self._patience = patience
        self._connections = Connections(
            address,
            port=port,
            user=user,
            private_key=private_key,
            host_key=host_key,
            patience=patience,
            compress=compress,
        )

    @override
    async def run(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
    ) -> CommandResult:
        output = Tail()
        script = ssh_script.run(command, env=env, cwd=cwd)
        # When time is up, `_run_once` still ends the command's group before the error leaves here.
        async with small(timeout, command[0], self._connections.where):
            exit_code, errors = await self._run_once(script, command[0], output.feed)
        return CommandResult(exit_code=exit_code, stdout=output.text(), stderr=errors)

    @override
    async def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> None:
        script = ssh_script.start(command, env=env, cwd=cwd)
        async with small(None, command[0], self._connections.where):
            exit_code, errors = await self._run_once(script, command[0], lambda _: None)
        if exit_code:
            raise DependencyError(f"{command[0]} cannot be started: {errors.strip()}.")

    @override
    async def follow(self, path: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        patience = Patience(self._patience, self._connections.where)
        while True:
            channel = None
            try:
                channel = await self._connections.open(ssh_script.follow(path, offset), patience)
                channel.silence = None
                while chunk := await channel.read(FOLLOW_CHUNK):
                    offset += len(chunk)
                    patience.progressed()
                    yield chunk
                # tail -f ends only when something kills it, a reboot for instance: worth another
                # try.
                raise Cut(f"tail ended with exit code {await channel.wait()}")  # noqa: TRY301
            except Cut as cut:
                if channel and channel.exit_code is None:
                    patience.progressed()  # it could be reached
                await patience.pause(cut)
            finally:
                if channel:
                    channel.abort()

    @override
    async def upload(self, local: Path, remote: str) -> Transfer:
        return await ssh_transfer.upload(self._connections, local, remote)

    @override
    async def download(self, remote: str, local: Path, *, limit: int | None = None) -> Transfer:
        return await ssh_transfer.download(self._connections, remote, local, limit)

    @override
    async def read(self, path: str) -> bytes | None:
        return await self._connections.persist(partial(self._read, path))

    @override
    async def write(self, path: str, content: bytes) -> None:
        await self._connections.persist(partial(self._write, path, content))

    @override
    async def listing(self, path: str) -> list[str]:
        names = await self._connections.persist(partial(self._list, path))
        return sorted(names.splitlines())

    @override
    async def run_shell(
        self,
        lines: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str,
        log: Callable[[str], None],
    ) -> None:
        # Descriptor 4 keeps the real standard error for the note of what failed; what the lines
        # print there goes the way of their output.
        setup = setup_script(lines, output="4>&2", failed=">&4")
        text = "".join(line + "\n" for line in setup)
        # As a file and not as an argument, which everybody on the machine could read.
        script = ssh_script.run(["bash", "/dev/stdin"], env=env, cwd=cwd, text=text)
        writer = LineWriter(log)
        try:
            # A build may be silent for an hour: so the machine is asked for something else.
            async with TaskScope() as scope:
                scope.start(self._pulse())
                exit_code, errors = await scope.result_of(
                    self._run_once(script, "setup", writer.feed)
                )
        finally:
            writer.finish()
        if exit_code:
            last = writer.last or errors.strip().rpartition("\n")[2]
            raise setup_failed(errors, exit_code, last)

    @override
    async def close(self) -> None:
        await self._connections.close()

    async def _run_once(
        self, script: str, name: str, take: Callable[[bytes], None]
    ) -> tuple[int, str]:
        """Run a script that must not be repeated; return its exit code and standard error."""
        # Opening may be repeated and running may not: once the script is sent, there is no telling
        # how much of it ran before a cut.
        channel = await self._connections.persist(partial(self._connections.open, script))
        channel.silence = None  # how long it may take is for the caller to say
        try:
            exit_code = await _take_output(channel, take)
        except Cut as cut:
            raise ConnectionLost(
                f"The connection to {self._connections.where} was cut while {name} ran: {cut}."
            ) from cut
        finally:
            await channel.abandon(END_SECONDS)
        return exit_code, channel.stderr.text()

    async def _pulse(self) -> None:
        """See that the machine runs commands. Runs until it is cancelled."""
        while True:
            await asyncio.sleep(RUN_SECONDS)
            await self.run(["true"])

    async def _read(self, path: str, patience: Patience) -> bytes | None:
        content = bytearray()
        # One byte more than allowed shows whether a file is too long or just fits.
        channel = await self._connections.open(ssh_script.read(path, SMALL_FILE + 1), patience)
        try:
            while chunk := await channel.read(TAKE):
                content += chunk
                patience.progressed()
            exit_code = await channel.wait()
        finally:
            channel.abort()
        if exit_code == ssh_script.MISSING:
            return None
        if exit_code == ssh_script.NOT_PLAIN:
            raise IntegrityError(f"{path} is not a plain file.")
        if len(content) > SMALL_FILE:
            raise IntegrityError(f"{path} is larger than {SMALL_FILE} bytes.")
        if exit_code:
            raise OrchestratorError(f"{path} cannot be read: {channel.stderr.text().strip()}.")
        return bytes(content)

    async def _write(self, path: str, content: bytes, patience: Patience) -> None:
        fresh = f"{path}.{uuid4().hex}.new"  # never the rest of an earlier attempt
        script = ssh_script.write(path, fresh, len(content))
        channel = await self._connections.open(script, patience)
        try:
            for begin in range(0, len(content), TAKE):
                await channel.write(content[begin : begin + TAKE])
            channel.write_eof()
            exit_code = await channel.wait()
            # What the script complained about may still be under way when its exit code is here.
            await channel.drain(lambda _: None)
        finally:
            channel.abort()
        if exit_code:
            raise ssh_transfer.refused(path, "replaced", channel)

    async def _list(self, path: str, patience: Patience) -> str:
        output = Tail()
        script = ssh_script.run(["ls", "-1A", "--", path])
        channel = await self._connections.open(script, patience)
        try:
            await _take_output(channel, output.feed)
        finally:
            await channel.abandon(END_SECONDS)
        return output.text()


async def _take_output(channel: Channel, take: Callable[[bytes], None]) -> int:
    """Pass the output on to the command's end and return the exit code.

    Ending the input then ends what is left of its group, which may hold the output open.
    """
    while chunk := await channel.read(TAKE, until_exit=True):
        take(chunk)
    exit_code = await channel.wait()
    channel.write_eof()
    await channel.drain(take)
    return exit_code
