"""Hear signals instead of dying by them, while there is something to say or to ask first."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any, Self

ENDING = (signal.SIGTERM, signal.SIGHUP)


class Told(BaseException):
    """A signal asked this process to end; like KeyboardInterrupt, not an error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """A context in which signals are heard. What was ignored before, as by nohup, stays ignored.

    It must be the main thread's.
    """

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.raised: frozenset[int] = frozenset()
        """Those that raise `Told` at once, wherever the program is."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        # Python demands a writer that does not block; a full pipe means that a wake-up is due
        # anyway.
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        # Python runs handlers between two instructions of the main thread, which `select` may keep
        # waiting: the byte in the pipe wakes it
        # (https://docs.python.org/3/library/signal.html#signal.set_wakeup_fd).
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGINT, *ENDING):
            # nohup and a shell's `&` ignore signals on purpose.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        # Before the pipe is closed, or a signal would write to a number that means another file.
        signal.set_wakeup_fd(-1)
        os.close(self._reader)
        os.close(self._writer)

    def raise_from_now(self, *numbers: int) -> None:
        """Make these signals raise `Told`; one that came already does so now."""
        self.raised = frozenset(numbers)
        self._tell()

    def wait(self, seconds: float, also: Sequence[int] = ()) -> list[int]:
        """Sleep until a signal comes or one of the descriptors `also` can be read; return these.

        Raises:
            Told: a signal that raises came, and nobody heard it yet.
        """
        self._tell()
        ready, _, _ = select.select([self._reader, *also], [], [], seconds)
        if self._reader in ready:
            os.read(self._reader, 512)
        return [descriptor for descriptor in ready if descriptor != self._reader]

    def _hear(self, number: int, _frame: FrameType | None) -> None:
        self.heard.append(number)
        self._tell()

    def _tell(self) -> None:
        # Also of those that were told before: one that came before it was to raise was only noted,
        # and Python drops what is raised while it destroys an object
        # (https://docs.python.org/3/reference/datamodel.html#object.__del__).
        for number in self.heard:
            if number in self.raised:
                raise Told(number)
