"""Tokens per second, MFU and peak memory of Llamas built from a config, against a bare TRL script.

    .venv/bin/python benchmarks/bench_gpu.py                    # on a GPU: 0.5 B and 1.5 B, bfloat16
    .venv/bin/python benchmarks/bench_gpu.py --quick            # anywhere: minuscule, to see it run;
                                                                # without a GPU it is always so

Weights are random: speed does not depend on them. Rows are texts of very different lengths, up to
`--length` tokens, as chats are. Each arm is a process of its own, timed by clock.py after a warm-up,
which takes in what is compiled. Arms whose package is missing (Liger) are left out.

MFU is the share of the GPU's dense bfloat16 peak that goes into the model: per token 6 operations a
parameter for full training and 4 for adapters (flows/renting/cost_estimate.py), not counting what
gradient checkpointing computes twice.
"""

from __future__ import annotations

import importlib.util
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from common import EXAMPLES, Place, conclude, median, options, place, write_chats

from blocks.providers.gpu_names import matches
from flows.renting.cost_estimate import OPERATIONS, TERAFLOPS
from trainer.contract.metrics import read_metrics

GOAL = 1.0
WARM_UP = 5
BATCH = 8
CLOCK = Path(__file__).with_name("clock.py")
SIZES = {"0.5B": (1280, 20, 20), "1.5B": (2048, 26, 16)}  # hidden size, layers, heads
MINUSCULE = {"tiny": (64, 2, 2)}
MAKE_MODEL = """
import sys
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed
set_seed(0)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
size, layers, heads, vocabulary, length = map(int, sys.argv[3:])
config = LlamaConfig(vocab_size=vocabulary, hidden_size=size, intermediate_size=size * 11 // 4,
    num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=max(1, heads // 4),
    max_position_embeddings=length, pad_token_id=tokenizer.pad_token_id,
    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, dtype="bfloat16")
model = LlamaForCausalLM(config)
model.save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
print(sum(p.numel() for p in model.parameters()))
"""
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, packed": {"packing": True},
    "ours, checkpointed": {"gradient_checkpointing": True},
    "ours, compiled": {"arguments": {"torch_compile": True}},
    "ours, Liger": {"arguments": {"use_liger_kernel": True}},
}


def main() -> None:
    """Measure and print a row for every arm."""
    given = options(__doc__ or "", rounds=2, steps=30, length=1024)
    device = gpu_name()
    quick = given.quick or device is None  # on a CPU the real sizes would take days
    steps, length = (8, 64) if quick else (given.steps, given.length)
    ratios: list[float] = []
    with place() as here:
        rows = write_chats(here.folder / "rows.jsonl", length)
        print(f"{device or 'CPU'}, rows of up to {length} tokens, {steps} steps of {BATCH} rows")
        print("| model | trained | arm | tokens/s | MFU | peak GB | against TRL |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for size, shape in (MINUSCULE if quick else SIZES).items():
            folder = here.folder / size
            vocabulary = 2048 if quick else 32_000
            made = here.python(
                "-c", MAKE_MODEL, EXAMPLES / "tiny-llama", folder, *shape, vocabulary, length
            )
            parameters = int(made.split()[-1])
            for peft in ({"r": 16, "lora_alpha": 32}, None):
                base = settings(folder, rows, peft, steps, length)
                ratios.append(table(here, size, parameters, base, device, given.rounds))
    conclude("gpu_tokens_per_second_against_TRL", min(ratios), ">=", GOAL)


def table(
    here: Place,
    size: str,
    parameters: int,
    base: dict[str, Any],
    device: str | None,
    rounds: int,
) -> float:
    """Print the arms of one model; return how many times as fast as TRL the default is."""
    names = [n for n in VARIANTS if n != "ours, Liger" or importlib.util.find_spec("liger_kernel")]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("TRL", *names)}
    for number in range(rounds):  # the arms take turns
        for name, results in found.items():
            stem = f"{size}-{'lora' if base['peft'] else 'full'}-{name.replace(', ', '-')}-{number}"
            if name == "TRL":
                results.append(run_trl(here, stem, base))
            else:
                results.append(run_ours(here, stem, {**base, **VARIANTS[name]}))
    speeds = {n: median([r["tokens"] / r["wall"] for r in found[n]]) for n in found}
    peak = device and next((t for n, t in TERAFLOPS.items() if matches([n], device, device)), None)
    for name, results in found.items():
        operations = OPERATIONS["adapters" if base["peft"] else "all"] * parameters
        used = f"{speeds[name] * operations / (peak * 1e12):.1%}" if peak else "-"
        memory = max(r["peak_gb"] or 0.0 for r in results)
        print(
            f"| {size}, {parameters / 1e6:,.1f} M | {'LoRA' if base['peft'] else 'all'} | {name} | "
            f"{speeds[name]:,.0f} | {used} | {memory:.2f} | {speeds[name] / speeds['TRL']:.2f} |",
            flush=True,
        )
    return speeds["ours"] / speeds["TRL"]


def settings(
    model: Path, rows: Path, peft: dict[str, Any] | None, steps: int, length: int
) -> dict[str, Any]:
    """Return the training of a job."""
    return {
        "method": "sft",
        "model": str(model),
        "dataset": {"path": str(rows)},
        "peft": peft,
        "max_steps": steps + WARM_UP,
        "max_length": length,
        "per_device_train_batch_size": BATCH,
        "gradient_checkpointing": False,
        "learning_rate": 1e-5,
        "logging_steps": 1,
        "save_steps": 10 * steps,
        "seed": 42,
    }


def run_ours(here: Place, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Train by our trainer's own process."""
    job = here.job_directory(name, config)
    here.python(CLOCK, "ours", job.root, WARM_UP_STEPS=str(WARM_UP))
    result = json.loads((job.root / "clock.json").read_text())
    # From step to step, for the last checkpoint of all weights would take longer than training.
    steps, _ = read_metrics(job.metrics)
    times = {n: datetime.fromisoformat(r["timestamp"]).timestamp() for n, r in steps.items()}
    timed = range(WARM_UP + 1, max(steps) + 1)
    tokens = sum(steps[n]["tokens_per_second"] * (times[n] - times[n - 1]) for n in timed)
    return {**result, "tokens": tokens, "wall": times[max(steps)] - times[WARM_UP]}


def run_trl(here: Place, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Train by the bare script, in the precision that ours takes."""
    spec, result = here.folder / f"{name}.spec.json", here.folder / f"{name}.json"
    same = ("max_steps", "max_length", "per_device_train_batch_size", "learning_rate", "seed")
    half = gpu_name() is not None
    arguments = {
        **{field: config[field] for field in (*same, "logging_steps", "gradient_checkpointing")},
        "use_cpu": not half,
        "bf16": half,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "assistant_only_loss": True,
    }
    lora = config["peft"] and {**config["peft"], "target_modules": "all-linear"}
    record = {
        "model": config["model"],
        "data": config["dataset"]["path"],
        "result": str(result),
        "seed": config["seed"],
        "dtype": "bfloat16" if half and lora else "float32",
        "lora": lora,
        "arguments": arguments,
    }
    spec.write_text(json.dumps(record))
    here.python(CLOCK, "trl", spec, WARM_UP_STEPS=str(WARM_UP))
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def gpu_name() -> str | None:
    """Return the name of the first GPU, without importing torch here."""
    if not Path("/proc/driver/nvidia").exists():
        return None
    import pynvml

    pynvml.nvmlInit()
    name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
    return name if isinstance(name, str) else str(name, "utf-8")


if __name__ == "__main__":
    main()
