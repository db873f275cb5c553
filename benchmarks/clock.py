"""Train with a stopwatch: `clock.py ARM FILE`. See bench_trainer and bench_gpu.

    ours JOBDIR            our trainer's own process
    trl SPEC.json          the shortest script with TRL's trainer of a method
    plain SPEC.json        a loop of PyTorch alone
    llama-factory FILE     LLaMA-Factory, by the Python of its own environment

All arms carry the same stopwatch; in the first, second and last it is a callback that transformers
itself hangs into every trainer. The trainers' packages are not changed, and not told.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import transformers.trainer
from transformers import TrainerCallback


class Stopwatch(TrainerCallback):  # type: ignore[misc] # transformers is not checked
    """CPU seconds of all threads, from the end of a warm-up to the end of training.

    The warm-up is `WARM_UP_STEPS` steps. The end comes after the last step's metrics and
    checkpoint. With `supervised` the parent's CPU seconds count too.
    """

    def __init__(self, result: Path, *, supervised: bool) -> None:
        self._result = result
        self._supervisor = psutil.Process(os.getppid()) if supervised else None
        self._warm_up = int(os.environ.get("WARM_UP_STEPS", "1"))
        self._start: tuple[float, float] | None = None
        self._losses: list[float] = []
        self._logs: list[dict[str, float]] = []
        self._tokens: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        """Start after the warm-up; keep every step's loss."""
        if "loss" not in logs:
            return
        self._losses.append(logs["loss"])
        self._logs.append(dict(logs))
        if len(self._losses) >= self._warm_up:
            self._start = self._start or self._now()
            self._tokens.append(logs.get("num_tokens", 0))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop."""
        import torch

        assert self._start
        cpu, wall = (after - before for after, before in zip(self._now(), self._start, strict=True))
        peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
        record = {
            "cpu": cpu,
            "wall": wall,
            "losses": self._losses,
            "logs": self._logs,
            "tokens": self._tokens[-1] - self._tokens[0],
            "steps": len(self._tokens) - 1,
            "peak_gb": peak,
        }
        self._result.write_text(json.dumps(record))

    def _now(self) -> tuple[float, float]:
        cpu = time.process_time()
        if self._supervisor:
            cpu += sum(self._supervisor.cpu_times()[:2])
        return cpu, time.monotonic()


def ours(job_directory: str) -> int:
    """Run the trainer's own process, as its supervisor would."""
    from trainer.training.train import main

    _carry(Path(job_directory) / "clock.json", supervised=True)
    return main(job_directory)


def trl(spec_file: str) -> int:
    """Run the shortest script that trains the same with TRL; it saves and reports nothing."""
    import runpy

    import trl
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    spec = json.loads(Path(spec_file).read_text())
    _carry(Path(spec["result"]), supervised=False)
    set_seed(spec["seed"])
    dtype = spec.get("dtype", "float32")
    model = AutoModelForCausalLM.from_pretrained(spec["model"], dtype=dtype)
    if spec["lora"]:
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **spec["lora"]))
    rows = [json.loads(line) for line in Path(spec["data"]).read_text().splitlines()]
    method = spec.get("method", "sft").upper()
    more = {}
    if "reward" in spec:
        file, _, name = spec["reward"].rpartition(":")
        more["reward_funcs"] = runpy.run_path(file)[name]
    trainer = getattr(trl, f"{method}Trainer")(
        model=model,
        args=getattr(trl, f"{method}Config")(
            output_dir=str(Path(spec_file).parent / "trl"),
            data_seed=spec["seed"],
            **spec["arguments"],
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(spec["model"]),
        **more,
    )
    trainer.train()
    return 0


def plain(spec_file: str) -> int:
    """Train the same, on the same tokens in the same order, by nothing but PyTorch."""
    import torch
    from accelerate.data_loader import SeedableRandomSampler
    from torch.nn.utils.rnn import pad_sequence
    from transformers import get_scheduler, set_seed

    from trainer.config import TrainingConfig
    from trainer.data.tokenization import prepare_datasets
    from trainer.engine.model import load_model, load_tokenizer

    spec = json.loads(Path(spec_file).read_text())
    given = TrainingConfig.model_validate(spec["config"])
    rows = prepare_datasets(given, load_tokenizer(given), Path(spec_file).parent / "tokens").train
    model = load_model(given)
    set_seed(spec["seed"])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=given.learning_rate, weight_decay=0.0, fused=True)
    warmup = math.ceil(given.warmup_steps * given.max_steps)
    scheduler = get_scheduler(given.lr_scheduler_type, optimizer, warmup, given.max_steps)
    sampler = SeedableRandomSampler(rows, data_seed=spec["seed"])

    def collate(batch: list[dict[str, list[int]]]) -> dict[str, Any]:
        ids, labels = ([torch.tensor(row[n]) for row in batch] for n in ("input_ids", "labels"))
        return {
            "input_ids": pad_sequence(ids, batch_first=True),
            "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        }

    loader = torch.utils.data.DataLoader(
        rows, given.per_device_train_batch_size, sampler=sampler, collate_fn=collate
    )
    clock = Stopwatch(Path(spec["result"]), supervised=False)
    model.train()
    step, tokens, epoch = 0, 0, 0
    while step < given.max_steps:
        sampler.set_epoch(epoch)
        for batch in loader:
            loss = model(**batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, given.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step, tokens = step + 1, tokens + int(batch["attention_mask"].sum())
            clock.on_log(None, None, None, {"loss": loss.item(), "num_tokens": tokens})
            if step == given.max_steps:
                break
        epoch += 1
    clock.on_train_end(None, None, None)
    return 0


def llama_factory(settings_file: str) -> int:
    """Run LLaMA-Factory on settings that our preset wrote into a job directory."""
    import yaml
    from llamafactory.train.tuner import run_exp

    _carry(Path(settings_file).with_name("clock.json"), supervised=False)
    run_exp(yaml.safe_load(Path(settings_file).read_text()))
    return 0


def _carry(result: Path, *, supervised: bool) -> None:
    stopwatch = Stopwatch(result, supervised=supervised)
    transformers.trainer.DEFAULT_CALLBACKS.append(stopwatch)


if __name__ == "__main__":
    ARMS = {
        "ours": ours,
        "trl": trl,
        "plain": plain,
        "llama-factory": llama_factory,
    }
    sys.exit(ARMS[sys.argv[1]](sys.argv[2]))
