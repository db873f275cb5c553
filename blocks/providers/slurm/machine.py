"""A node of an allocation: its files by the login node, its commands by the agent that runs there."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from typing_extensions import override

from blocks.machines.base import CANNOT_START, RUN_SECONDS, CommandResult, Machine, Transfer
from blocks.machines.lines import LineWriter
from blocks.machines.setup import setup_failed, setup_script
from blocks.machines.shell import run_script
from blocks.task_scope import TaskScope
from trainer.contract.errors import ConfigError, ConnectionLost, DependencyError

LATE_SECONDS = 30.0  # for a request and its answer to come, besides what the command takes
SILENCE_SECONDS = 60  # without a beat of the agent, after which nothing more is expected of it
SILENT, NOT_UP = 75, 76  # exit codes of the script below
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# $1: the node's folder, $2: the request's id. Puts the request into the inbox and waits for its answer.
_ASK = r"""
cd -- "$1/answers" 2>/dev/null && [ -e ../inbox ] || exit 76
: >"$2.code"
printf 'r %s\n' "$2" >>../inbox || exit 1
beat= waited=0
until read -r code <"$2.code"; do
    sleep 0.1
    waited=$((waited + 1))
    [ "$waited" -lt 600 ] || { read -r now <../alive; [ "$now" != "$beat" ] || exit 75; beat=$now waited=0; }
done 2>/dev/null
tail -c 1048576 "$2.out"
tail -c 1000000 "$2.err" >&2
printf '\n@code %s\n' "$code" >&2
rm -f -- "$2".* "../todo/$2"
"""
_GIVE_UP = r"""
cd -- "$1" && printf 'k %s\n' "$2" >>inbox && rm -f -- "todo/$2"
"""
# Its own session, so that it is left when the group of the request ends; that comes right after this.
_START = r"""
command -v "$1" >/dev/null || { echo 'no such program' >&2; exit 127; }
setsid "$@" </dev/null >/dev/null 2>&1 &
until [ "$(sed 's/.*) //' "/proc/$!/stat" 2>/dev/null | cut -d ' ' -f 3)" = "$!" ]; do
    kill -0 "$!" 2>/dev/null || break
done
"""


class NodeMachine(Machine):
    """Needs the agent on the node (`agent.sh`), and a folder that node and login node share.

    Whoever may write to that folder may run commands on the node; it is its owner's alone.

    Raises, in every verb:
        ConnectionLost: the login node or the agent does not answer, or what it was asked for hangs.

    Args:
        login: the login node, whose files are those of the node.
        place: the folder of the node's agent, absolute.
        where: what the node is called in messages.
    """

    def __init__(self, login: Machine, place: str, *, where: str) -> None:
        self._login = login
        self._place = place
        self._where = where

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
        try:
            return await self._ask(script_of(command, env, cwd), seconds + LATE_SECONDS)
        except TimeoutError:
            if timeout is not None:
                raise
            raise ConnectionLost(
                f"{self._where} does not run {command[0]!r} within {RUN_SECONDS:g} s.",
                "Look at the node: its disk may hang, or its memory be used up.",
            ) from None

    @override
    async def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> None:
        result = await self.run(["sh", "-c", _START, "sh", *command], env=env, cwd=cwd)
        if result.exit_code:
            raise DependencyError(f"{command[0]} cannot be started: {result.stderr.strip()}.")

    @override
    def follow(self, path: str, offset: int = 0) -> AsyncGenerator[bytes, None]:
        return self._login.follow(path, offset)

    @override
    async def upload(self, local: Path, remote: str) -> Transfer:
        return await self._login.upload(local, remote)

    @override
    async def download(self, remote: str, local: Path, *, limit: int | None = None) -> Transfer:
        return await self._login.download(remote, local, limit=limit)

    @override
    async def read(self, path: str) -> bytes | None:
        return await self._login.read(path)

    @override
    async def write(self, path: str, content: bytes) -> None:
        await self._login.write(path, content)

    @override
    async def listing(self, path: str) -> list[str]:
        return await self._login.listing(path)

    @override
    async def run_shell(
        self,
        lines: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str,
        log: Callable[[str], None],
    ) -> None:
        # Through files: what it prints is read while it runs.
        base = f"{self._place}/todo/shell-{uuid4().hex}"
        script, output, failed = (f"{base}.{end}" for end in ("sh", "output", "failed"))
        writer = LineWriter(log)
        setup = setup_script(lines, output=f">{shlex.quote(output)}", failed=f">{failed}")
        await self.write(script, "".join(f"{line}\n" for line in setup).encode())
        try:
            async with TaskScope() as scope:
                scope.start(self._pass_on(output, writer))
                result = await scope.result_of(
                    self._ask(script_of(["bash", script], env, cwd), None)
                )
            writer.feed((await self.read(output) or b"")[writer.received :])
            noted = (await self.read(failed) or b"").decode(errors="replace")
        finally:
            writer.finish()
            with suppress(ConnectionLost):
                await self._login.run(["rm", "-f", "--", script, output, failed])
        if result.exit_code:
            raise setup_failed(noted, result.exit_code, writer.last)

    @override
    async def close(self) -> None:
        await self._login.close()

    async def _pass_on(self, output: str, writer: LineWriter) -> None:
        async for chunk in self.follow(output):
            writer.feed(chunk)

    async def _ask(self, script: str, seconds: float | None) -> CommandResult:
        """Have the agent run a script; what is given up here is ended there.

        Raises:
            TimeoutError: there is no answer within so many seconds.
        """
        id = uuid4().hex
        # By a file and not as an argument: everybody on the login node could read that.
        await self._login.write(f"{self._place}/todo/{id}", script.encode())
        is_answered = False
        try:
            async with asyncio.timeout(seconds):
                # The script ends by itself when the agent falls silent, so it has no limit of its own.
                said = await run_script(self._login, _ASK, self._place, id, timeout=seconds or 1e9)
            is_answered = True
        finally:
            if not is_answered:
                await _to_its_end(self._give_up(id))
        errors, found, code = said.stderr.rpartition("\n@code ")
        if not found:
            await self._give_up(id)
            raise ConnectionLost(f"{self._where} does not answer: {_why(said)}.")
        return CommandResult(exit_code=exit_code_of(int(code)), stdout=said.stdout, stderr=errors)

    async def _give_up(self, id: str) -> None:
        with suppress(ConnectionLost, TimeoutError):
            await run_script(self._login, _GIVE_UP, self._place, id, timeout=LATE_SECONDS)


def script_of(command: Sequence[str], env: Mapping[str, str] | None, cwd: str | None) -> str:
    """Return a script that removes itself and then becomes a command.

    Raises:
        ConfigError: a name in env cannot be that of a variable.
    """
    for name in env or {}:
        if not _VARIABLE.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be the name of an environment variable.")
    lines = ['rm -f -- "$0"']
    lines += [f"export {name}={shlex.quote(value)}" for name, value in (env or {}).items()]
    if cwd is not None:
        lines.append(f"cd {shlex.quote(cwd)} || exit {CANNOT_START}")
    return "\n".join([*lines, f"exec {shlex.join(command)}", ""])


def exit_code_of(code: int) -> int:
    """Return what a shell says of how a command ended as `CommandResult` has it."""
    # 128 + n is a signal, up to the last one of Linux.
    return 128 - code if 128 < code <= 128 + 64 else code


def _why(said: CommandResult) -> str:
    if said.exit_code == NOT_UP:
        return (
            "its agent has not come up, or its job has ended; login node and nodes must share "
            "their folder"
        )
    if said.exit_code == SILENT:
        return f"nothing was heard of its agent for {SILENCE_SECONDS} s"
    return said.stderr.strip()[-300:] or f"exit code {said.exit_code}"


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Do something that must be done even by what is being cancelled."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise
