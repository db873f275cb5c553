"""Train with a stopwatch: `clock.py ours JOBDIR` or `clock.py trl SPEC.json`. See bench_trainer.

Both arms carry the same stopwatch, a callback that transformers itself hangs into every trainer.
The trainer's package is not changed, and not told.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import transformers.trainer
from transformers import TrainerCallback


class Stopwatch(TrainerCallback):  # type: ignore[misc] # transformers is not checked
    """CPU seconds of all threads, from the first logged step to the end of training.

    The first step is left out, for it warms up. The end comes after the last step's metrics and
    checkpoint. With `supervised` the parent's CPU seconds count too.
    """

    def __init__(self, result: Path, *, supervised: bool) -> None:
        self._result = result
        self._supervisor = psutil.Process(os.getppid()) if supervised else None
        self._start: tuple[float, float] | None = None
        self._losses: list[float] = []
        self._tokens: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        """Start after the first step; keep every step's loss."""
        if "loss" in logs:
            self._start = self._start or self._now()
            self._losses.append(logs["loss"])
            self._tokens.append(logs.get("num_tokens", 0))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        assert self._start
        cpu, wall = (after - before for after, before in zip(self._now(), self._start, strict=True))
        record = {"cpu": cpu, "wall": wall, "losses": self._losses}
        self._result.write_text(json.dumps(record | {"tokens": self._tokens[-1] - self._tokens[0]}))

    def _now(self) -> tuple[float, float]:
        cpu = time.process_time()
        if self._supervisor:
            cpu += sum(self._supervisor.cpu_times()[:2])
        return cpu, time.monotonic()


def ours(job_directory: str) -> int:
    """Run the trainer's own process, as its supervisor would."""
    from trainer.train import main

    _carry(Path(job_directory) / "clock.json", supervised=True)
    return main(job_directory)


def trl(spec_file: str) -> int:
    """Run the shortest script that trains the same with TRL; it saves and reports nothing."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    spec = json.loads(Path(spec_file).read_text())
    _carry(Path(spec["result"]), supervised=False)
    set_seed(spec["seed"])
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype="float32")
    rows = [json.loads(line) for line in Path(spec["data"]).read_text().splitlines()]
    trainer = SFTTrainer(
        model=get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **spec["lora"])),
        args=SFTConfig(
            output_dir=str(Path(spec_file).parent / "trl"),
            data_seed=spec["seed"],
            **spec["arguments"],
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(spec["model"]),
    )
    trainer.train()
    return 0


def _carry(result: Path, *, supervised: bool) -> None:
    stopwatch = Stopwatch(result, supervised=supervised)
    transformers.trainer.DEFAULT_CALLBACKS.append(stopwatch)


if __name__ == "__main__":
    sys.exit({"ours": ours, "trl": trl}[sys.argv[1]](sys.argv[2]))
