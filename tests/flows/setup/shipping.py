"""What the tests of shipping have in common."""

from __future__ import annotations

from pathlib import Path

from blocks.workplaces.machine import MachineWorkplace
from trainer.config import TrainingConfig

ROWS = b'{"text": "one"}\n{"text": "two"}\n'


def config(model="org/model", data="org/data", **more):
    return TrainingConfig.model_validate({"model": str(model), "dataset": str(data), **more})


def at_work(machine, base):
    return MachineWorkplace(machine, f"{base}/jobs/one")


def files_below(folder):
    root = Path(folder)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def at(path):
    return Path(path).read_bytes()
