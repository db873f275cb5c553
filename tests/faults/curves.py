"""Loss curves of trainings that nothing disturbed, each trained once for all tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from flows.locks import locked
from trainer.config import TrainingConfig
from trainer.contract.metrics import read_metrics

Losses = dict[int, tuple[float | None, float | None]]


class Curves:
    """A folder with one job directory per training config, shared by all workers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def of(self, config: TrainingConfig) -> Losses:
        """Return the losses by step of a config, training it when nobody has.

        It is trained without a checkpoint on the way: saving must not change a loss.
        """
        text = config.model_copy(update={"save_steps": 1_000_000}).model_dump_json()
        folder = self._folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        async with locked(folder / "curve.lock"):
            if not (folder / "done").exists():
                (folder / "job.json").write_text(json.dumps({"config": json.loads(text)}))
                await asyncio.to_thread(
                    subprocess.run,
                    [sys.executable, "-m", "trainer", str(folder)],
                    check=True,
                    stdout=subprocess.DEVNULL,
                    env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                )
                (folder / "done").touch()
        return losses(folder / "metrics.jsonl")


def losses(metrics: Path) -> Losses:
    """Return (training loss, evaluation loss) by step."""
    steps, _ = read_metrics(metrics)
    return {step: (r.get("train_loss"), r.get("eval_loss")) for step, r in steps.items()}
