"""Takes the commands of a mailbox in their order, and puts their answers there."""

from __future__ import annotations

import errno
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from blocks.machines.mailbox.agent import files
from blocks.machines.mailbox.agent.box import Box
from blocks.machines.mailbox.agent.files import Answer
from blocks.machines.mailbox.agent.processes import Process, spawn
from blocks.machines.mailbox.agent.refused import Refused
from blocks.machines.mailbox.agent.saving import TAKEN_BACK, at_work, jobs, say_taken_back

T = TypeVar("T")
KEPT = 1000  # numbers after which a command and its answer are removed
BEAT_SECONDS = 10.0
LIVELY_SECONDS = 10.0  # after a command, for which the next is looked for more often
QUIET_SECONDS = 15.0  # without a command, after which nobody fetches anything any more
REPEATABLE = {"read", "size"}  # what may be done twice, and holds no secret


class Postman:
    """Obeys one mailbox."""

    def __init__(self, bucket: Box, base: Path, *, idle: float, lively: float) -> None:
        """Prepare to obey.

        Args:
            bucket: the mailbox.
            base: the folder with the job directories.
            idle: seconds between two looks for a command.
            lively: the same, while commands come.
        """
        self._bucket, self._base = bucket, base
        self._idle, self._lively = idle, lively
        self._next = self._told = self._beat = 0
        self._beat_at = self._asked_at = time.monotonic()
        self._running: dict[int, Process] = {}
        self._read_at: dict[str, float] = {}
        self.taken_back = threading.Event()
        """Set it when the machine is being taken back."""
        self.over = threading.Event()
        """Set it to end."""

    def work(self) -> None:
        """Obey until it is over, or the machine is taken back and no job works there any more."""
        self._patiently(self._begin)
        leaving = False
        while not self.over.is_set():
            if self.taken_back.is_set() and not leaving:
                leaving = True
                if self._patiently(lambda: self._bucket.get("over")) is not None:
                    return
                say_taken_back(self._base)
            found = self._patiently(lambda: self._bucket.get(_name("in", self._next)))
            if found is not None:
                self._take(found)
                continue
            since = time.monotonic() - self._asked_at
            if time.monotonic() - self._beat_at >= BEAT_SECONDS:
                self._patiently(self._say_alive)
            at_rest = leaving and not at_work(self._base)
            if at_rest and (since > QUIET_SECONDS or not jobs(self._base)):
                return
            self.over.wait(self._lively if leaving or since < LIVELY_SECONDS else self._idle)

    def _patiently(self, ask: Callable[[], T]) -> T | None:
        """Ask the bucket until it answers: there is nobody else to turn to."""
        while not self.over.is_set():
            try:
                return ask()
            except self._bucket.errors as error:
                print(f"the bucket: {error}".partition("\n")[0], flush=True)  # noqa: T201
                self.over.wait(1.0)
        return None

    def _begin(self) -> None:
        (self._base / TAKEN_BACK).unlink(missing_ok=True)  # that of an earlier agent
        # After a restart of the machine what was begun before is not begun again.
        if said := self._bucket.get("alive"):
            before = json.loads(said)
            self._next, self._beat = before["next"], before["beat"]
        self._say_alive()

    def _say_alive(self) -> None:
        self._beat += 1
        self._bucket.put("alive", _line(next=self._next, beat=self._beat))
        self._told, self._beat_at = self._next, time.monotonic()

    def _take(self, content: bytes) -> None:
        """Obey one command: in a thread, unless its place among the others matters."""
        number, self._next = self._next, self._next + 1
        self._asked_at = time.monotonic()
        if self._next - self._told >= KEPT // 50:  # whoever comes anew begins there
            self._patiently(self._say_alive)
        if (old := number - KEPT) >= 0:
            self._patiently(lambda: self._bucket.remove(_name("in", old)))
            self._patiently(lambda: self._bucket.remove(_name("out", old)))
        head, _, payload = content.partition(b"\n")
        try:
            wanted = json.loads(head)
            if wanted.get("done"):
                return
            wanted = {"do": str(wanted["do"]), "id": str(wanted["id"]), **wanted}
        except (AttributeError, LookupError, TypeError, ValueError):  # not written by us
            return
        if wanted["do"] not in REPEATABLE:
            done = _line(id=wanted["id"], done=True)
            self._patiently(lambda: self._bucket.put(_name("in", number), done))
        if wanted["do"] == "run":
            self._running[number] = Process()
        if wanted["do"] in {"write", "cancel"}:
            self._obey(number, wanted, payload)
        else:
            arguments = (number, wanted, payload)
            threading.Thread(target=self._obey, args=arguments, daemon=True).start()

    def _obey(self, number: int, wanted: dict[str, Any], payload: bytes) -> None:
        content = b""
        try:
            answer, content = self._done(number, wanted, payload)
        except Refused as error:
            answer = {"error": error.kind, "why": str(error)}
        except FileNotFoundError as error:
            answer = {"error": "missing", "why": str(error)}
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT}
            answer = {"error": "full" if full else "refused", "why": str(error)}
        except (LookupError, TypeError, ValueError) as error:  # of another version than ours
            answer = {"error": "refused", "why": f"{type(error).__name__}: {error}"}
        self._patiently(lambda: self._bucket.put(_name("out", number), _line(**answer) + content))

    def _done(self, number: int, wanted: dict[str, Any], payload: bytes) -> Answer:
        doing: dict[str, Callable[[], Answer]] = {
            "run": lambda: self._run(number, wanted),
            "cancel": lambda: self._cancel(wanted),
            "start": lambda: _start(wanted),
            "read": lambda: self._read(wanted),
            "size": lambda: files.size(wanted),
            "part": lambda: files.part(wanted),
            "write": lambda: files.write(wanted, payload),
            "finish": lambda: files.finish(wanted),
            "put": lambda: files.put(wanted, payload),
        }
        return doing[wanted["do"]]()

    def _run(self, number: int, wanted: dict[str, Any]) -> Answer:
        try:
            return self._running[number].run(wanted, self._read_at), b""
        finally:
            del self._running[number]

    def _cancel(self, wanted: dict[str, Any]) -> Answer:
        if process := self._running.get(wanted["number"]):
            process.kill()
        return {}, b""

    def _read(self, wanted: dict[str, Any]) -> Answer:
        self._read_at[wanted["path"]] = time.monotonic()
        return files.read(wanted, self.over.is_set)


def _start(wanted: dict[str, Any]) -> Answer:
    try:
        process = spawn(wanted, subprocess.DEVNULL)
    except OSError as error:
        why = f"{wanted['command'][0]} cannot be started: {error.strerror}: {error.filename!r}."
        raise Refused("dependency", why) from error
    # Whoever starts a process must collect its exit code, or it looks alive when it is dead.
    threading.Thread(target=process.wait, daemon=True).start()
    return {}, b""


def _name(box: str, number: int) -> str:
    return f"{box}/{number:010}"


def _line(**facts: Any) -> bytes:
    return json.dumps(facts).encode() + b"\n"
