"""The other side of a walk: machines that are folders, and what trains on them.

    there/<instance>/on                     the machine is on
    there/<instance>/jobs/<mark>/start      somebody asks for the training to start
    there/<instance>/jobs/<mark>/alive      it trains
    ended/<instance>                        where the folder goes when the provider ends the machine

A training really writes its log, a few bytes at a time, and obeys `control.json` and the walk. What
it wrote is kept in memory too, because a job directory may go with its machine.
"""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from trainer.contract.files import read_json, replace_json
from trainer.contract.job_directory import Desired, JobState, utc_now
from trainer.contract.manifest import write_manifest

TICK_SECONDS = 0.01

WEIGHTS = struct.pack("<Q", 2) + b"{}"
"""A safetensors file without tensors."""


def folder_name(id: str) -> str:
    """Return what the folder of a machine is called: an id may be a path in its account."""
    return id.replace("/", "~")


@dataclass
class Training:
    """The training in one job directory, over all its starts."""

    folder: Path
    machine: str
    run: str
    begins: int
    """How many bytes the log had when it started for the first time."""
    written: bytearray = field(default_factory=bytearray)
    """What it has written since."""
    alive: bool = False
    lines: int = 0
    rest: bytes = b""
    """Of the line that it is writing."""


class Machines:
    """All machines of a walk."""

    def __init__(self, folder: Path, harmed: Callable[[str, str], None]) -> None:
        """Begin.

        Args:
            folder: where they are.
            harmed: takes a run and how its training was stopped, by anybody but the walk.
        """
        self.there, self._ended = folder / "there", folder / "ended"
        for each in (self.there, self._ended):
            each.mkdir(parents=True)
        self._harmed = harmed
        self.trainings: list[Training] = []
        """In the order in which they started."""
        self.finishing: set[str] = set()
        """The runs whose trainings shall complete."""
        self._ids: dict[str, str] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()

    def of(self, run: str) -> list[Training]:
        """Return the trainings of a run, the first one first."""
        return [one for one in self.trainings if one.run == run]

    def begin(self, id: str) -> None:
        self._ids[folder_name(id)] = id
        (self.there / folder_name(id)).mkdir()
        (self.there / folder_name(id) / "on").touch()

    def end(self, id: str) -> None:
        """End a machine at once, with whatever trains on it."""
        name = folder_name(id)
        with self._lock:
            if not (self.there / name).exists():
                return
            for training in self.trainings:
                if training.machine == id and training.alive:
                    training.alive = False
                    self._harmed(training.run, f"{id} was ended")
            (self.there / name).rename(self._ended / name)

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _train(self) -> None:
        while not self._over.wait(TICK_SECONDS):
            with self._lock:
                for start in self.there.glob("*/jobs/*/start"):
                    self._start(start.parent)
                for training in self.trainings:
                    if training.alive:
                        self._go_on(training)

    def _start(self, folder: Path) -> None:
        training = next((each for each in self.trainings if each.folder == folder), None)
        if training is None:
            run = str((read_json(folder / "job.json") or {})["run_id"])
            log = folder / "train.log"
            begins = log.stat().st_size if log.exists() else 0
            training = Training(folder, self._ids[folder.parent.parent.name], run, begins)
            self.trainings.append(training)
        training.alive = True
        self._say(training, JobState.RUNNING)
        (folder / "alive").touch()
        (folder / "start").unlink()  # last: one of the two says always that it is at work

    def _go_on(self, training: Training) -> None:
        """Write some bytes more, or come to rest."""
        folder = training.folder
        try:
            control = read_json(folder / "control.json") or {}
            if control.get("desired", Desired.RUN) != Desired.RUN:
                self._harmed(training.run, f"asked to stop: {control.get('reason')}")
                self._rest(training, JobState.STOPPED, str(control.get("reason")))
            elif training.run in self.finishing:
                (folder / "output").mkdir(exist_ok=True)
                (folder / "output" / "model.safetensors").write_bytes(WEIGHTS)
                write_manifest(folder / "output")
                self._rest(training, JobState.COMPLETED, "")
            else:
                self._write(training, random.randint(1, 80))  # noqa: S311 - no secret
        except FileNotFoundError:
            training.alive = False
            self._harmed(training.run, f"{training.machine}: {folder} was removed")

    def _write(self, training: Training, size: int) -> None:
        """Write so many bytes of numbered lines, of which the last may end in its middle."""
        while len(training.rest) < size:
            training.lines += 1
            training.rest += f"line {training.lines} on {training.machine}\n".encode()
        self._append(training, size)

    def _append(self, training: Training, size: int) -> None:
        piece, training.rest = training.rest[:size], training.rest[size:]
        with (training.folder / "train.log").open("ab", buffering=0) as stream:
            stream.write(piece)
        training.written += piece

    def _rest(self, training: Training, state: JobState, reason: str) -> None:
        training.rest += f"{state} after {training.lines} lines\n".encode()
        self._append(training, len(training.rest))
        self._say(training, state, reason=reason, finished_at=utc_now())
        with suppress(FileNotFoundError):
            (training.folder / "alive").unlink()
        training.alive = False

    def _say(self, training: Training, state: JobState, **facts: str) -> None:
        record = {"state": state, "step": training.lines, "updated_at": utc_now(), **facts}
        replace_json(training.folder / "status.json", record, durable=False)
