"""What is wanted of the trainer right now: `control.json`, or a signal. Stdlib only."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

from trainer.contract.job_directory import SIGNALLED, Control, Desired, JobDirectory, JobState
from trainer.contract.signals import pass_over_notice, requests

ENDED_BY_SIGNAL = 128 + signal.SIGTERM


class Interrupted(BaseException):
    """A pause or stop was requested before there was anything to save."""


class ControlReader:
    """Says whether to pause or stop; cheap enough to be asked at every step."""

    def __init__(self, directory: JobDirectory) -> None:
        self._directory = directory
        self._seen: tuple[int, int] | None = None
        self._control = Control()
        self._noticed: int | None = None
        self._signals = 0
        self.training = False
        """While it is false a signal ends the process at once: there is nothing to save."""

    def obeyed(self, work: Callable[[], JobState]) -> JobState:
        """Do `work` and return the state it ends in; a request before it can save ends it at once.

        SIGTERM and SIGINT are requests from here on.
        """
        try:
            # Inside the try: a signal may come before the next line, and raises Interrupted.
            self.listen()
            return work()
        except Interrupted:
            return self.end_state() or JobState.STOPPED

    def listen(self) -> None:
        """Take SIGTERM and SIGINT as a request to stop; a second one ends the process.

        Where SIGTERM is only a notice, it does nothing; see `trainer.contract.signals`.
        """
        pass_over_notice()
        for number in requests():
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._signals > 1:
            # Not sys.exit(): that raises in whatever frame is running, waits for threads that save,
            # and may be swallowed. A second Ctrl-C means now.
            os._exit(ENDED_BY_SIGNAL)
        if not self.training:
            # A BaseException, so that no "except Exception" of a library on the way takes it.
            raise Interrupted

    def control(self) -> Control:
        """Return the present request, reading `control.json` only when it was replaced."""
        try:
            status = os.stat(self._directory.control)  # noqa: PTH116 - half the cost of Path.stat
            # The file is only ever replaced, so its inode changes even within one tick of the
            # clock.
            now = (status.st_mtime_ns, status.st_ino)
        except OSError:
            now = None
        if now != self._seen:
            self._seen = now
            self._control = self._directory.read_control()
        # What the file asks for is more precise than a signal: pause, or its own reason.
        if self._signals and self._control.desired is Desired.RUN:
            return Control(desired=Desired.STOP, reason=SIGNALLED)
        return self._control

    def has_new_notice(self) -> bool:
        """Whether the provider has announced, since this was asked last, that it takes the machine."""
        try:
            noticed = os.stat(self._directory.notice).st_mtime_ns  # noqa: PTH116 - as above
        except OSError:
            return False
        is_new = noticed != self._noticed
        self._noticed = noticed
        return is_new

    def end_state(self) -> JobState | None:
        """Return the state to end in when pause or stop is wanted, else None."""
        match self.control().desired:
            case Desired.RUN:
                return None
            case Desired.PAUSE:
                return JobState.PAUSED
            case Desired.STOP:
                return JobState.STOPPED
