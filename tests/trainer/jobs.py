"""Job directories that really train, for a moment, in this process or in one of their own."""

import faulthandler
import functools
import gc
import hashlib
import json
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from trainer.config import TrainingConfig
from trainer.contract import checkpoints
from trainer.contract.events import Event, parse_events
from trainer.contract.job_directory import Desired, JobDirectory, JobState, Status
from trainer.contract.metrics import read_metrics
from trainer.engine import memory_prediction
from trainer.engine.control import ControlReader
from trainer.training.train import main, train

TINY_LLAMA = Path(__file__).parents[2] / "examples" / "tiny-llama"
EXACT = ("train_loss", "grad_norm", "learning_rate", "eval_loss")
"""What must be the same, to the last bit, however often a run was interrupted."""
WILD = {
    "peft": None,
    "optim": "sgd",
    "learning_rate": 10,
    "max_grad_norm": 0,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "max_steps": 40,
    "save_steps": 1,
}
"""Settings by which the loss is no number any more within some steps."""


class Job:
    """A job directory with a config; whatever is not said is small and quick."""

    def __init__(self, root: Path, **settings: Any) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.directory = JobDirectory(root)
        self.config = {
            "max_steps": 8,
            "max_length": 64,
            "per_device_train_batch_size": 2,
            "learning_rate": 0.001,
            "report_to": [],
            **settings,
        }
        self.write(config=self.config)

    def write(self, **record: Any) -> None:
        self.directory.job.write_text(json.dumps(record))

    def train(self, control_reader: ControlReader | None = None) -> JobState:
        """Train here; what goes wrong is raised."""
        _leave_modules_out_of_garbage_collection()
        with remembered_memory():
            return train(self.directory, control_reader or ControlReader(self.directory))

    def main(self) -> int:
        """Train here as the trainer's process does; what goes wrong is in the status."""
        try:
            with remembered_memory():
                return main(str(self.directory.root))
        finally:
            faulthandler.unregister(signal.SIGUSR1)
            faulthandler.enable(file=sys.__stderr__)

    @property
    def status(self) -> Status:
        return self.directory.read_status()

    @property
    def metrics(self) -> dict[int, dict[str, Any]]:
        steps, skipped = read_metrics(self.directory.metrics)
        assert skipped == 0
        return steps

    @property
    def events(self) -> list[Event]:
        return parse_events(self.directory.events.read_bytes().splitlines())

    @property
    def curve(self) -> dict[int, dict[str, Any]]:
        steps = self.metrics
        return {n: {key: steps[n].get(key) for key in EXACT} for n in steps}

    @property
    def evaluations(self) -> dict[int, float]:
        return {n: r["eval_loss"] for n, r in self.metrics.items() if "eval_loss" in r}

    @property
    def saved_steps(self) -> list[int]:
        found = checkpoints.all_checkpoints(self.directory.checkpoints)
        return [checkpoints.step_of(path) for path in found]

    def checkpoint(self, step: int) -> Path:
        return self.directory.checkpoints / f"checkpoint-{step}"

    @property
    def weights(self) -> str:
        return digest(self.directory.output)


class PausesAfter(ControlReader):
    """Pauses the job by its control.json when a given number of steps was made by this process."""

    def __init__(self, directory: JobDirectory, steps: int) -> None:
        super().__init__(directory)
        self._asked = -1  # once before the first step
        self._steps = steps
        self._job = directory

    def end_state(self) -> JobState | None:
        self._asked += 1
        if self._asked == self._steps:
            self._job.request(Desired.PAUSE, reason="a test")
        return super().end_state()


MAKES_NO_MEMORY = {
    *("dataset", "max_steps", "num_train_epochs", "learning_rate", "lr_scheduler_type", "optim"),
    *("warmup_steps", "max_grad_norm", "save_steps", "eval_steps", "report_to", "seed"),
    *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    *("callbacks", "reward_functions"),
}
"""Settings that no trace of a pass depends on."""
_trace = memory_prediction._traced
_traced: dict[tuple[str, int, int], float | None] = {}


def _traced_once(config: TrainingConfig, rows: int, length: int) -> float | None:
    key = config.model_dump_json(exclude=MAKES_NO_MEMORY), rows, length
    if key not in _traced:
        _traced[key] = _trace(config, rows, length)
    return _traced[key]


def remembered_memory() -> Any:
    """Return a context in which a pass is traced once: of the jobs here that is more than half."""
    return patch.object(memory_prediction, "_traced", _traced_once)


@functools.cache
def _frozen(_modules: int) -> None:
    gc.collect()
    gc.freeze()


def _leave_modules_out_of_garbage_collection() -> None:
    """Spare each training a second: it has all objects of Python searched, and most are modules'."""
    _frozen(len(sys.modules))


def digest(folder: Path) -> str:
    """Return the SHA-256 of the weights in a folder."""
    found = list(folder.glob("*.safetensors"))
    assert len(found) == 1, found
    return hashlib.sha256(found[0].read_bytes()).hexdigest()


def flip_a_byte(path: Path) -> None:
    """Damage a file as a bad disk would: same size, one bit."""
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
