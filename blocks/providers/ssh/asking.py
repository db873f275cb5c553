"""Asking a user's own hosts: one script each, all at once, for a few seconds at most."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from blocks.machines.base import Machine
from blocks.machines.shell import marked, run_script
from blocks.providers.ssh.hosts import Host, host_key_file, known_lines
from trainer.contract.errors import BootError, ConnectionLost, HostKeyChanged, OrchestratorError

ASK_SECONDS = 15.0  # for a host to answer, in all
PATIENCE_SECONDS = 8.0  # for a host to be reached

T = TypeVar("T")
Lines = list[tuple[str, str]]


def connection(host: Host, private_key: Path, **options: Any) -> Machine:
    """Return a connection to a host, opened when it is first used.

    Args:
        host: where it is.
        private_key: a file.
        options: more for `SshMachine`, such as `patience`.
    """
    from blocks.machines.ssh import SshMachine  # a third of a second, for those who need it

    return SshMachine(
        host.address,
        port=host.port,
        user=host.user,
        private_key=private_key,
        host_key=host_key_file(host),
        **options,
    )


async def ask(
    host: Host, private_key: Path, text: str, *arguments: str, seconds: float = ASK_SECONDS
) -> Lines:
    """Run a script on a host and return its marked lines.

    Raises:
        ConnectionLost: it cannot be reached, or does not answer within `seconds`.
        HostKeyChanged: it shows another host key than before.
        BootError: the script failed.
    """
    try:
        async with (
            asyncio.timeout(seconds),
            connection(host, private_key, patience=PATIENCE_SECONDS) as machine,
        ):
            result = await run_script(machine, text, *arguments, timeout=seconds)
    # A host that accepts the connection and then hangs must not hold up the search on the others.
    except TimeoutError:
        raise ConnectionLost(f"{host} does not answer within {seconds:g} s.") from None
    except HostKeyChanged as error:
        if not known_lines(host):
            raise
        raise HostKeyChanged(
            f"{error.message.rstrip('.')}, taken from your ~/.ssh/known_hosts.",
            "Nothing was sent to it. If you set the host up anew, correct its line there.",
        ) from error
    if result.exit_code:
        said = result.stderr.strip()[-300:] or f"exit code {result.exit_code}"
        raise BootError(f"{host} cannot do what was asked: {said}.", "Look at its disk.")
    return marked(result.stdout)


async def answers_of(calls: Iterable[Awaitable[T]]) -> list[T | OrchestratorError]:
    """Wait for all calls at once; return the answer of each, or its error."""

    async def answer(call: Awaitable[T]) -> T | OrchestratorError:
        try:
            return await call
        except OrchestratorError as error:
            return error

    return await asyncio.gather(*map(answer, calls))
