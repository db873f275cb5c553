"""The process of another trainer. Standard library only.

It stays in our process group, so that ending the group ends all of it; and a signal to save
and end goes to the whole group too, as Ctrl-C in a terminal does: behind a shell or a launcher
the process that saves is a grandchild.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from trainer.command.plan import Plan
from trainer.contract.errors import ConfigError
from trainer.contract.own_python import users_variables
from trainer.supervision.process import die_with_parent

TICK = 0.2  # seconds between two looks at control.json and the checkpoints
DRAIN_SECONDS = 1.0  # for the output of processes that outlive the one we started
CHUNK = 1 << 16


class Program:
    """One run of the command; leaving the context kills it."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        """Start the command.

        Args:
            plan: what to run.
            folder: where.

        Raises:
            ConfigError: there is no such program, or it cannot be run.
        """
        # Below the supervisor we lead a group already. Started by hand, without this, the signal to
        # save and end would go to the shell that started us.
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)
        environment = environment_of(plan.env)
        try:
            self._process = subprocess.Popen(  # noqa: S603 - this command is what the user asked for
                plan.words,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                # So that two programs never write into one job directory, even if we are killed.
                # Safe although preexec_fn is discouraged: this process has a single thread, and
                # prctl is called through a library that is loaded already.
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise ConfigError(
                f"training.command.run: {plan.words[0]!r} cannot be started: {error.strerror}.",
                "Install it by the job's `setup`, or give its whole path.",
            ) from None
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        self._pipe = self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.kill()
        self._process.wait()
        self._pipe.close()

    @property
    def code(self) -> int:
        """The exit code, negative when a signal ended it."""
        return self._process.wait()

    def output(self) -> Iterator[bytes]:
        """Yield what it prints, and nothing (b"") at every tick in between, until it has ended."""
        deadline = None
        with selectors.DefaultSelector() as selector:
            selector.register(self._pipe, selectors.EVENT_READ)
            while deadline is None or time.monotonic() < deadline:
                if selector.select(TICK):
                    chunk = os.read(self._pipe.fileno(), CHUNK)
                    if not chunk:
                        break
                    yield chunk
                yield b""
                if deadline is None and self._process.poll() is not None:
                    # A background process that inherited the pipe may keep it open for ever.
                    deadline = time.monotonic() + DRAIN_SECONDS
        while self._process.poll() is None:  # it closed its output and goes on
            time.sleep(TICK)
            yield b""

    def ask_to_end(self, name: str) -> None:
        """Send a signal to it and all that it started, but not to ourselves."""
        number = signal.Signals[name]
        # killpg() includes ourselves. The signal is ignored for the moment, not blocked: blocked it
        # would be pending afterwards, and be taken for a second request to end.
        before = signal.signal(number, signal.SIG_IGN)
        os.killpg(0, number)
        signal.signal(number, before)

    def kill(self) -> None:
        """Kill it; what it started ends with our group, at the latest when we end."""
        self._process.kill()


def environment_of(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the command: ours, our Python first on the PATH, and its own."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    ours = {"PATH": path, "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **users_variables(), **ours, **env}
