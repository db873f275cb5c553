"""Our trainer against a bare TRL script: tokens per CPU second of the training loop.

ours    `python -m trainer JOBDIR` with its defaults: the supervisor (its CPU time counts too),
        metrics, TensorBoard, log and status at every step, checkpoints with manifests.
TRL     the shortest script with TRL's SFTTrainer as it comes: nothing saved, nothing reported.

Both: the same model, data, batch, packing, LoRA, learning rate and seed, float32, one thread, no
gradient checkpointing. The losses of all steps must agree to 1e-5, or this fails. CPU time is read
by the same callback in both (clock.py), from the first logged step to the end of training.
Three workloads; the last line is the worse of the tiny model's two.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import EXAMPLES, Place, conclude, fail, median, options, place, spread

GOAL = 1.4
TOLERANCE = 1e-5  # of a step's loss
SEED = 42
CLOCK = Path(__file__).with_name("clock.py")


@dataclass(frozen=True)
class Work:
    """What both arms train."""

    name: str
    method: str
    model: Path
    data: Path
    steps: int
    max_length: int = 256

    def shared(self) -> dict[str, Any]:
        """Return the settings that bear the same name in both."""
        return {
            "max_steps": self.steps,
            "max_length": self.max_length,
            "per_device_train_batch_size": 8,
            "learning_rate": 2e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.03,
            "logging_steps": 1,
            "seed": SEED,
        }


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", steps=100)
    steps = 8 if given.quick else given.steps
    with place() as here:
        tiny = EXAMPLES / "tiny-llama"
        works = [
            Work("tiny, padded", "sft", tiny, EXAMPLES / "quickstart.jsonl", steps),
            Work("tiny, packed", "cpt", tiny, EXAMPLES / "corpus.jsonl", steps // 2),
        ]
        if not given.quick:
            # 5.5 M parameters, 38 % of them in its head of 8,192 tokens. The data use but those of
            # the tiny model's tokenizer; the head computes the others all the same.
            small = here.llama("small-llama", hidden_size=256, layers=4, heads=4)
            works.append(
                Work("5.5 M, padded", "sft", small, EXAMPLES / "quickstart.jsonl", steps // 4)
            )
        ratios = [compare(here, work, given.rounds) for work in works]
    conclude("trainer_tokens_per_cpu_second", min(ratios[:2]), ">=", GOAL)


def compare(here: Place, work: Work, rounds: int) -> float:
    """Print both arms' medians and return how many times as fast ours is."""
    speeds: dict[str, list[float]] = {"ours": [], "TRL": []}
    ratios, apart = [], 0.0
    for number in range(rounds):
        name = f"{work.name.replace(', ', '-').replace(' ', '')}-{number}"
        theirs, ours = run_trl(here, work, name), run_ours(here, work, name)
        if len(ours["losses"]) != len(theirs["losses"]):
            fail(f"{work.name}: {len(ours['losses'])} steps against {len(theirs['losses'])}.")
        pairs = zip(ours["losses"], theirs["losses"], strict=True)
        apart = max(apart, *(abs(a - b) for a, b in pairs))
        tokens = theirs["tokens"]  # with equal losses these are the tokens of both
        speeds["ours"].append(tokens / ours["cpu"])
        speeds["TRL"].append(tokens / theirs["cpu"])
        ratios.append(theirs["cpu"] / ours["cpu"])
    print(f"{work.name} ({work.steps} steps, {tokens:.0f} tokens)")
    for arm, values in speeds.items():
        print(f"  {arm:5} {spread(values, 'tokens per CPU second')}")
    ratio = median(speeds["ours"]) / median(speeds["TRL"])
    print(f"  ratio {ratio:.2f}, by rounds {min(ratios):.2f} to {max(ratios):.2f}", flush=True)
    print(f"  the losses of the same step differ by at most {apart:.1e}", flush=True)
    if apart > TOLERANCE:
        fail(f"{work.name}: the losses differ by {apart:.1e}; the two do not train the same.")
    return ratio


def run_ours(here: Place, work: Work, name: str) -> dict[str, Any]:
    """Train by the supervisor; only its trainer's command is ours, to carry the stopwatch."""
    config = {
        "method": work.method,
        "model": str(work.model),
        "dataset": {"path": str(work.data)},
        "peft": {"r": 16, "lora_alpha": 32},
        "save_steps": max(1, work.steps // 2),  # two checkpoints, however short the run
        **work.shared(),
    }
    job = here.job_directory(name, config)
    record = json.loads(job.job.read_text())
    record["command"] = [sys.executable, str(CLOCK), "ours", str(job.root)]
    job.job.write_text(json.dumps(record))
    here.python("-m", "trainer", job.root)
    return _result(job.root / "clock.json")


def run_trl(here: Place, work: Work, name: str) -> dict[str, Any]:
    """Train by the bare script."""
    spec = here.folder / f"{name}.spec.json"
    result = here.folder / f"{name}.trl.json"
    arguments = {
        **work.shared(),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **({"packing": True, "packing_strategy": "wrapped"} if work.method == "cpt" else {}),
        **({"assistant_only_loss": True} if work.method == "sft" else {}),
    }
    settings = {
        "model": str(work.model),
        "data": str(work.data),
        "result": str(result),
        "seed": SEED,
        "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "arguments": arguments,
    }
    spec.write_text(json.dumps(settings))
    here.python(CLOCK, "trl", spec)
    return _result(result)


def _result(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())
    return record


if __name__ == "__main__":
    main()
