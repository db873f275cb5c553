"""A reward function of the user's own in a process of its own, so that it may hang or crash.

The process, `trainer.rewards.sandbox_process`, gets columns and returns numbers over a socket. It is no
defence against malice: it may read and write whatever the trainer may.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psutil

from trainer.config.code_references import split_reference
from trainer.config.rewards import SandboxConfig
from trainer.contract.errors import CodeError, from_dict
from trainer.contract.own_python import own_python
from trainer.rewards.checked import FIELD, Rewards, checked
from trainer.rewards.counts import Counts

HEADER = struct.Struct("!Q")
"""What comes before every message: its length in bytes."""
LONGEST = 64 << 20  # bytes of a reply; what is longer is none
START_SECONDS = 300.0  # to import what the function needs, which may be torch on a cold disk
LOOK_SECONDS = 1.0  # between two signs of life
VAIN_CALLS = 3
"""After how many calls in succession that scored nothing at all the job stops."""


@dataclass(frozen=True, slots=True)
class Lost:
    """What kept a call from being answered."""

    why: str


class Sandbox:
    """Calls the function in its process, which is started again where it hangs or ends."""

    def __init__(self, text: str, settings: SandboxConfig, counts: Counts) -> None:
        """Start the process.

        Args:
            text: as `path.py:name`.
            settings: its limits.
            counts: of answers that got no score.

        Raises:
            CodeError: the file raises an error, or its process ends, while it is loaded.
        """
        self._text = text
        self._path, self.__name__ = split_reference(text, "reward_functions")
        self._settings = settings
        self._counts = counts
        self._scored_any = False
        self._vain = 0
        self._start()

    def __call__(self, **columns: Any) -> Rewards:
        """Return the rewards; None for an answer at which the function hung or crashed.

        Raises:
            CodeError: it raised an error, returned nonsense, or scores nothing any more.
        """
        # What TRL gives besides columns, such as its state, is alive and cannot be sent.
        data = {name: value for name, value in columns.items() if isinstance(value, list)}
        count = len(data["completions"])
        answer = self._asked(data, count)
        if not isinstance(answer, Lost):
            self._scored_any, self._vain = True, 0
            return answer
        rewards, losses = self._one_by_one(data, count, answer)
        self._refuse_vanity(losses, count)
        return rewards

    def _one_by_one(
        self, data: dict[str, list[Any]], count: int, first: Lost
    ) -> tuple[Rewards, list[Lost]]:
        """Return the rewards of the answers each for itself, and what befell those without one."""
        rewards: Rewards = []
        losses = []
        for i in range(count):
            row = {name: value[i : i + 1] for name, value in data.items()}
            answer = first if count == 1 else self._asked(row, 1)
            if isinstance(answer, Lost):
                self._counts.no_score(f"{self._path.name}:{self.__name__}", answer.why)
                losses.append(answer)
                rewards.append(None)
            else:
                rewards += answer
        return rewards, losses

    def _refuse_vanity(self, losses: list[Lost], count: int) -> None:
        if len(losses) < count:
            self._scored_any, self._vain = True, 0
            return
        self._vain += 1
        # A function that never scored anything is broken; one that did may have met a bad prompt.
        if self._vain >= VAIN_CALLS or not self._scored_any:
            raise CodeError(
                f"{FIELD}: {self.__name__} in {self._path} scored none of {count} answers: it "
                f"{losses[-1].why}.",
                "Correct the function, or raise timeout_seconds or memory_gb in "
                "training.reward_sandbox.",
            )

    # The process ------------------------------------------------------------------------------

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        memory = self._settings.memory_gb
        words = [str(theirs.fileno()), self._text, str(0 if memory is None else memory)]
        # In the trainer's group, so that whatever it leaves behind ends with the training.
        process = subprocess.Popen(  # noqa: S603 - our own module
            own_python("-u", "-m", "trainer.rewards.sandbox_process", *words),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            # The order of a set of texts must not change from one process to the next.
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        theirs.close()
        self._channel, self._process = ours, process
        self._end = weakref.finalize(self, _end, process, ours)
        answer = self._reply(time.monotonic() + START_SECONDS)
        if isinstance(answer, Lost):
            self._end()
            raise CodeError(
                f"{FIELD}: {self._path} cannot be loaded in the sandbox: the process {answer.why}.",
                "Correct the file, or raise memory_gb in training.reward_sandbox.",
            )

    def _asked(self, data: dict[str, list[Any]], count: int) -> Rewards | Lost:
        """Return the rewards of a call; where there are none, the process is a new one."""
        deadline = time.monotonic() + self._settings.timeout_seconds * count
        answer: Any
        try:
            self._channel.settimeout(max(0.01, deadline - time.monotonic()))
            message = pickle.dumps(data)
            self._channel.sendall(HEADER.pack(len(message)) + message)
            answer = self._reply(deadline, seconds=self._settings.timeout_seconds)
        except TimeoutError:
            answer = self._too_long(self._settings.timeout_seconds)
        except OSError:  # the socket's other end is closed
            answer = Lost(self._why_gone())
        if isinstance(answer, Lost):
            self._end()
            self._start()
            return answer
        return checked(answer.get("rewards"), count, f"{self.__name__} in {self._path}")

    def _reply(self, deadline: float, seconds: float = START_SECONDS) -> dict[str, Any] | Lost:
        """Return what the process says.

        Raises:
            CodeError: it says that the function, or its file, raised an error.
        """
        header = self._received(HEADER.size, deadline)
        if header is None:
            return self._too_long(seconds)
        length = HEADER.unpack(header)[0] if len(header) == HEADER.size else 0
        content = self._received(length, deadline) if length <= LONGEST else b""
        if content is None:
            return self._too_long(seconds)
        try:
            answer = json.loads(content)
        except ValueError:
            return Lost(self._why_gone())
        if not isinstance(answer, dict):
            return Lost("sent something other than rewards")
        if why := answer.get("lost"):
            return Lost(str(why))
        if error := answer.get("error"):
            raise from_dict(error)
        return answer

    def _received(self, length: int, deadline: float) -> bytes | None:
        """Return so many bytes, fewer where the other end was closed, None where time is over."""
        found = b""
        while len(found) < length:
            self._counts.alive()
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self._channel.settimeout(min(LOOK_SECONDS, left))
            try:
                chunk = self._channel.recv(min(1 << 20, length - len(found)))
            except TimeoutError:
                # A process that the function has started may hold the socket open for ever.
                if self._process.poll() is not None:
                    break
                continue
            except OSError:
                break
            if not chunk:
                break
            found += chunk
        return found

    def _too_long(self, seconds: float) -> Lost:
        return Lost(f"took longer than {seconds:g} s")

    def _why_gone(self) -> str:
        try:
            code = self._process.wait(timeout=LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its connection"
        if code >= 0:
            return f"ended its process (exit code {code})"
        return f"was ended by {signal.Signals(-code).name}{' (memory?)' if code == -9 else ''}"


def _end(process: subprocess.Popen[bytes], channel: socket.socket) -> None:
    """End the process with all that it has started and that still belongs to it."""
    channel.close()
    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
    process.kill()
    process.wait()
