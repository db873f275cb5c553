"""Our trainer against others: tokens per CPU second of the training loop.

    ours           `python -m trainer JOBDIR` with its defaults: the supervisor (its CPU time counts
                   too), metrics, TensorBoard, log and status at every step, checkpoints with manifests
    TRL            the shortest script with TRL's trainer as it comes; nothing saved, none reported
    plain          a loop of PyTorch alone over padded batches; nothing saved, nothing reported
    LLaMA-Factory  0.9.5, by the Python of its own environment; only with --llama_factory PYTHON
    packed         ours with `packing: true` on the same rows

Rows are the quickstart's, which are short and alike, and chats of mixed lengths up to 256 tokens. dpo
and grpo are compared with TRL alone: the examples' rows, and pairs of mixed lengths.
All arms: the same model, data, batch, LoRA, learning rate and seed, float32, one thread, no gradient
checkpointing. The losses of all steps of ours, TRL and plain must agree to 1e-5, or this fails;
LLaMA-Factory has another order, so only the mean of its last losses must be near ours. Of grpo also the
rewards, entropies and lengths of the answers must agree: so the same answers were generated. CPU time is
read in the same way in all (clock.py), from the first logged step to the end of training.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import (
    EXAMPLES,
    Place,
    conclude,
    fail,
    median,
    options,
    place,
    spread,
    write_chats,
    write_pairs,
)

from trainer.presets import translate

TOLERANCE = 1e-5  # of a step's loss
NEAR = 0.1  # LLaMA-Factory's, of the mean of the last losses
SEED = 42
CLOCK = Path(__file__).with_name("clock.py")
GOALS = {"plain": 0.97, "LLaMA-Factory": 1.0}  # those against TRL are each work's
PACKED_GOAL = 1.4  # against the fastest of the others
SAME_ANSWERS = ("reward", "entropy", "completions/mean_length")
SAME = ("TRL", "plain")  # they learn in the same order
ALL = ("ours", "TRL", "plain", "LLaMA-Factory", "packed")
REWARD = f"{EXAMPLES / 'methods' / 'rewards.py'}:on_topic"
Result = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """What all arms train."""

    name: str
    method: str
    model: Path
    data: Path
    steps: int
    goal: float
    """How many times as fast as TRL it is to be."""
    arms: tuple[str, ...] = ("ours", "TRL")
    max_length: int = 256
    online: bool = False
    """Whether the model learns from answers that it generates."""

    @property
    def label(self) -> str:
        """Return the name as a line of results begins with it."""
        return re.sub(r"\W+", "_", f"{self.method} {self.name}")

    def config(self, **more: Any) -> dict[str, Any]:
        """Return the training of a job."""
        return {
            "method": self.method,
            "model": str(self.model),
            "dataset": {"path": str(self.data)},
            "peft": {"r": 16, "lora_alpha": 32},
            "save_steps": max(1, self.steps // 2),  # two checkpoints, however short the run
            "max_length": self.max_length,
            **({"reward_functions": [REWARD]} if self.online else {}),
            **self.shared(),
            **more,
        }

    def shared(self) -> dict[str, Any]:
        """Return the settings that bear the same name everywhere."""
        return {
            "max_steps": self.steps,
            "per_device_train_batch_size": 8,
            "learning_rate": 2e-4,
            "lr_scheduler_type": "cosine",
            "warmup_steps": 0.03,
            "logging_steps": 1,
            "seed": SEED,
            **({"num_generations": 8, "max_completion_length": 64} if self.online else {}),
        }

    def of_trl(self) -> dict[str, Any]:
        """Return the settings that are TRL's alone."""
        return {
            "cpt": {"packing": True, "packing_strategy": "wrapped", "max_length": self.max_length},
            "sft": {"assistant_only_loss": True, "max_length": self.max_length},
            "dpo": {"max_length": self.max_length},
        }.get(self.method, {})


def main() -> None:
    """Measure and print."""
    given = options(__doc__ or "", steps=96, llama_factory="", only="")
    steps = 8 if given.quick else given.steps
    speeds: dict[Work, dict[str, float]] = {}
    with place() as here:
        works = [w for w in works_of(here, steps) if given.only in w.label]
        if given.quick:
            works = [work for work in works if work.model == EXAMPLES / "tiny-llama"]
        arms = arms_of(here, given.llama_factory)
        for work in works:
            speeds[work] = compare(work, {n: arms[n] for n in work.arms if n in arms}, given.rounds)
    for work, speed in speeds.items():
        conclude(f"trainer_{work.label}_against_TRL", speed["ours"] / speed["TRL"], ">=", work.goal)
    full = [speed for speed in speeds.values() if "packed" in speed]
    for name, goal in GOALS.items():
        if ratios := [speed["ours"] / speed[name] for speed in full if name in speed]:
            conclude(f"trainer_against_{name}", min(ratios), ">=", goal)
    if full:
        padded = ("TRL", *GOALS)
        ratios = [s["packed"] / max(s[n] for n in padded if n in s) for s in full]
        conclude("trainer_packed_against_all_padded", min(ratios), ">=", PACKED_GOAL)


def works_of(here: Place, steps: int) -> list[Work]:
    """Return what is trained: short rows by a tiny model, and mixed ones by a small one."""
    tiny, small = EXAMPLES / "tiny-llama", here.llama("small", hidden_size=256, layers=4, heads=4)
    mixed = write_chats(here.folder / "mixed.jsonl", 256)
    pairs = write_pairs(here.folder / "pairs.jsonl", 256)
    methods = EXAMPLES / "methods"
    half = max(1, steps // 2)
    return [
        Work("quickstart", "sft", tiny, EXAMPLES / "quickstart.jsonl", steps, 1.5, ALL),
        Work("mixed", "sft", small, mixed, half, 1.8, ALL),
        Work("blocks", "cpt", tiny, EXAMPLES / "corpus.jsonl", half, 1.4),
        Work("example", "dpo", tiny, methods / "preferences.jsonl", half, 1.3),
        Work("mixed", "dpo", small, pairs, half, 1.3),
        Work("example", "grpo", tiny, methods / "prompts.jsonl", half, 1.3, online=True),
        Work("small", "grpo", small, methods / "prompts.jsonl", half, 1.3, online=True),
    ]


def arms_of(here: Place, llama_factory: str) -> dict[str, Callable[[Work, str], Result]]:
    """Return how each arm is run: with the work and a name for its folder."""
    arms: dict[str, Callable[[Work, str], Result]] = {
        "TRL": lambda work, name: run_trl(here, work, name),
        "plain": lambda work, name: run_plain(here, work, name),
        "ours": lambda work, name: run_ours(here, work, name),
        "packed": lambda work, name: run_packed(here, work, name),
    }
    if llama_factory:
        arms["LLaMA-Factory"] = lambda work, name: run_llama_factory(
            here, work, name, llama_factory
        )
    return arms


def compare(
    work: Work, arms: dict[str, Callable[[Work, str], Result]], rounds: int
) -> dict[str, float]:
    """Print each arm's tokens per CPU second, and return their medians."""
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    apart = 0.0
    for number in range(rounds):
        stem = f"{work.label}-{number}"
        results = {name: run(work, f"{stem}-{name}") for name, run in arms.items()}
        apart = max(apart, *(distance(results["ours"], results[n]) for n in SAME if n in results))  # fmt: skip
        if "LLaMA-Factory" in results:
            check_near(results["ours"], results["LLaMA-Factory"])
        for name, result in results.items():
            # With equal losses the tokens of one arm are those of the others.
            tokens = result["tokens"] or results["TRL"]["tokens"]
            speeds[name].append(tokens / result["cpu"])
    print(f"{work.method}, {work.name} ({work.steps} steps)")
    medians = {name: median(values) for name, values in speeds.items()}
    for name, values in speeds.items():
        ratio = medians["ours"] / medians[name]
        print(f"  {name:13} {spread(values, 'tokens per CPU second')}  ours x {ratio:.2f}")
    print(f"  the losses of the same step differ by at most {apart:.1e}", flush=True)
    if apart > TOLERANCE:
        fail(f"{work.name}: the losses differ by {apart:.1e}; the arms do not train the same.")
    return medians


def distance(ours: Result, theirs: Result) -> float:
    """Return by how much the same step differs at most, in its loss and in what was answered."""
    if len(ours["losses"]) != len(theirs["losses"]):
        fail(f"{len(ours['losses'])} steps against {len(theirs['losses'])}.")
    pairs = [*zip(ours["losses"], theirs["losses"], strict=True)]
    for mine, other in zip(ours["logs"], theirs["logs"], strict=True):
        pairs += [
            (mine[name], other[name]) for name in SAME_ANSWERS if name in other and name in mine
        ]
    return max(abs(a - b) for a, b in pairs)


def check_near(ours: Result, theirs: Result) -> None:
    """Refuse a comparison with a training that ended elsewhere."""
    tail = max(1, len(ours["losses"]) // 4)
    means = [sum(r["losses"][-tail:]) / tail for r in (ours, theirs)]
    if abs(means[0] - means[1]) > NEAR * means[0]:
        fail(f"ours ended at a loss of {means[0]:.3f}, LLaMA-Factory at {means[1]:.3f}.")


def run_ours(here: Place, work: Work, name: str, **more: Any) -> Result:
    """Train by the supervisor; only its trainer's command is ours, to carry the stopwatch."""
    job = here.job_directory(name, work.config(**more))
    record = json.loads(job.job.read_text())
    record["command"] = [sys.executable, str(CLOCK), "ours", str(job.root)]
    job.job.write_text(json.dumps(record))
    here.python("-m", "trainer", job.root)
    return _result(job.root / "clock.json")


def run_packed(here: Place, work: Work, name: str) -> Result:
    """Train as many rows, packed; their tokens are those of the data, over whole epochs."""
    epochs = max(1, round(work.steps * 8 / len(work.data.read_text().splitlines())))
    result = run_ours(here, work, name, packing=True, max_steps=-1, num_train_epochs=epochs)
    manifest = json.loads((here.folder / name / "output" / "MANIFEST.json").read_text())
    share = result["steps"] / (result["steps"] + 1)  # the first is not timed
    return result | {"tokens": epochs * manifest["data"]["tokens"] * share}


def run_plain(here: Place, work: Work, name: str) -> Result:
    """Train by a loop of PyTorch."""
    spec, result = here.folder / f"{name}.spec.json", here.folder / f"{name}.json"
    record = {"config": work.config(), "result": str(result), "seed": SEED}
    spec.write_text(json.dumps(record))
    here.python(CLOCK, "plain", spec)
    return _result(result)


def run_llama_factory(here: Place, work: Work, name: str, python: str) -> Result:
    """Train by LLaMA-Factory, with the settings that our preset writes."""
    job = here.job_directory(name, work.config(trainer="llama-factory"))
    command = translate(job, None)
    settings = Path(command["run"][-1].replace("{job_directory}", str(job.root)))
    log = here.start(
        [python, CLOCK, "llama-factory", settings], f"{name}.log", DISABLE_VERSION_CHECK="1"
    )
    log.finished()
    return _result(settings.with_name("clock.json"))


def run_trl(here: Place, work: Work, name: str) -> Result:
    """Train by the bare script."""
    spec = here.folder / f"{name}.spec.json"
    result = here.folder / f"{name}.json"
    arguments = {
        **work.shared(),
        **work.of_trl(),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    settings = {
        "method": "sft" if work.method == "cpt" else work.method,
        "model": str(work.model),
        "data": str(work.data),
        "result": str(result),
        "seed": SEED,
        "lora": {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"},
        "arguments": arguments,
        **({"reward": REWARD} if work.online else {}),
    }
    spec.write_text(json.dumps(settings))
    here.python(CLOCK, "trl", spec)
    return _result(result)


def _result(path: Path) -> Result:
    record: Result = json.loads(path.read_text())
    return record


if __name__ == "__main__":
    main()
