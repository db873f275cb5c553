"""Orders to carry the files of a folder, and what became of them. Standard library only.

store/<name>.json          in    what goes where; removed as soon as it has been read, for its
                                 addresses permit whoever has them
store/<name>.result.json   out   working, done or failed, with the bytes so far; replaced atomically
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.contract.errors import ConfigError, OrchestratorError
from trainer.contract.files import read_json, replace_json
from trainer.contract.manifest import check_name
from trainer.courier.carrying import Unwanted, receive, send
from trainer.courier.cloud_role import CloudRole

FOLDER = "store"
PARALLEL = 4  # files on their way at once
BEAT_SECONDS = 1.0  # between two results while it works


@dataclass(frozen=True, slots=True)
class CarryingOrder:
    """What goes where."""

    verb: str
    """put or get."""
    folder: str
    """In the job directory."""
    files: Mapping[str, Mapping[str, Any]]
    """By name: bytes, sha256, and the url that takes or gives it."""
    headers: Mapping[str, str]
    """That go along with what is put."""
    role: Mapping[str, Any] | None = None
    """The machine's own signs: the `scheme` of the store, and what `CloudRole` needs to know of it.
    None: each address permits what is asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Return what is written to its file."""
        return {
            "verb": self.verb,
            "folder": self.folder,
            "files": {name: dict(facts) for name, facts in self.files.items()},
            "headers": dict(self.headers),
            "role": dict(self.role) if self.role else None,
        }


def order_name(name: str) -> str:
    """Return where an order is in the job directory."""
    return f"{FOLDER}/{name}.json"


def result_name(name: str) -> str:
    """Return where its result is."""
    return f"{FOLDER}/{name}.result.json"


def take(job: Path, name: str) -> CarryingOrder:
    """Return an order, and remove its file.

    Raises:
        ConfigError: there is none.
    """
    path = job / order_name(name)
    record = read_json(path)
    path.unlink(missing_ok=True)
    if record is None:
        raise ConfigError(f"{path} is not there, or is not JSON.")
    order = CarryingOrder(
        record["verb"], record["folder"], record["files"], record["headers"], record.get("role")
    )
    for file in (order.folder, *order.files):
        check_name(file)
    return order


def carry_out(job: Path, name: str, order: CarryingOrder) -> bool:
    """Carry every file, and leave a result; return whether all went well.

    Args:
        job: the job directory.
        name: of the order.
        order: what it says.
    """
    work = _Work(job, name)
    role = CloudRole(order.role["scheme"], order.role) if order.role else None
    with ThreadPoolExecutor(PARALLEL + 1) as pool:
        beat = pool.submit(work.beat)
        try:
            carried = [pool.submit(work.carry, order, file, role) for file in order.files]
            for one in carried:
                one.result()
        except (OrchestratorError, OSError) as error:
            work.over.set()
            beat.result()
            work.note("failed", error)
            return False
        finally:
            work.over.set()
        beat.result()
    work.note("done")
    return not work.unwanted


class _Work:
    """One order on its way."""

    def __init__(self, job: Path, name: str) -> None:
        self.over = threading.Event()
        self.unwanted = False
        """Whether home has taken the result away: nobody waits for it any more."""
        self._job = job
        self._name = name
        self._lock = threading.Lock()
        self._bytes = 0
        self._beats = 0

    def carry(self, order: CarryingOrder, file: str, role: CloudRole | None) -> None:
        """Carry one file."""
        path, facts = self._job / order.folder / file, order.files[file]
        if self.over.is_set():
            return
        try:
            if order.verb == "put":
                send(path, facts, facts["url"], order.headers, self._moved, role)
            else:
                receive(path, facts, facts["url"], self._moved, role)
        except Unwanted:  # another file has failed
            return

    def beat(self) -> None:
        """Show that it goes on, until it is over, or home has taken the result away."""
        self.note("working")
        while not self.over.wait(BEAT_SECONDS):
            if not (self._job / result_name(self._name)).exists():
                self.unwanted = True  # and what is carried instead needs the line
                self.over.set()
                return
            self.note("working")

    def note(self, state: str, error: Exception | None = None) -> None:
        """Replace the result, as long as somebody wants it."""
        if self.unwanted:
            return
        self._beats += 1
        if isinstance(error, OSError):
            error = ConfigError(f"{error.filename or self._name}: {error.strerror}.")
        result = {
            "state": state,
            "bytes": self._bytes,
            "beat": self._beats,
            "at": time.time(),
            "error": error.to_dict() if isinstance(error, OrchestratorError) else None,
        }
        replace_json(self._job / result_name(self._name), result, durable=False)

    def _moved(self, size: int) -> None:
        if self.over.is_set():
            raise Unwanted
        with self._lock:
            self._bytes += size
