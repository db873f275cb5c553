"""Estimate what a job takes: `python -m trainer.estimate JOB.json` prints one JSON object.

Memory is counted, not measured: the model is built on the meta device, which has no storage.

    weights       bytes of every parameter, in the precision it is held in
    gradients     4 bytes per trained parameter (masters are float32)
    optimizer     8 bytes per trained parameter: Adam's two moments in float32
    activations   per layer 34 × batch × length × hidden bytes in half precision, twice that in
                  float32 (Korthikanti et al. 2022, arXiv:2205.05198, equation 2, without the
                  attention matrix, which fused attention does not keep); with gradient
                  checkpointing a layer's input each and one whole layer; and the logits, of
                  batch × length × vocabulary, held about three times

Time is measured: a few steps of the real training on real rows, where that is cheap.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.arguments import precision, split_batch, training_arguments
from trainer.config import TrainingConfig, TrainingJob
from trainer.config.generation import generation_arguments, uses_of_prompt
from trainer.errors import ConfigError, OrchestratorError
from trainer.explain import validated
from trainer.files import read_json
from trainer.job_directory import JobDirectory
from trainer.methods import METHODS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SAMPLE_ROWS = 500  # tokenised to know the lengths; the rest is taken to be like them
PROBE_PARAMETERS = 200e6  # on a CPU a larger model is not tried
OVERHEAD_GB = {"cuda": 0.8, "cpu": 0.7}
"""Python, torch and the libraries: CUDA's context on a GPU, main memory without one."""
GB = 1e9
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ADAM_BYTES, GRADIENT_BYTES = 8, 4
ACTIVATION_BYTES = 34  # per token, hidden unit and layer, in half precision
LOGIT_COPIES = 3  # the logits, their softmax and its gradient


def estimate(job: TrainingJob) -> dict[str, Any]:
    """Return what the job takes; times are seconds, memory is GB of 1e9 bytes.

    Raises:
        OrchestratorError: an argument, the model or a row is wrong.
    """
    config = job.training
    with tempfile.TemporaryDirectory() as folder:
        check_arguments(config, JobDirectory(folder))
        data = lengths(config, Path(folder))
        model = empty_model(config)
        memory = memory_gb(config, model, data["longest"])
        kind, available = available_gb()
        steps = total_steps(config, data)
        total, trained = parameters(model)
        per_step, note = probe(config, total, Path(folder))
    return {
        "parameters": total,
        "trainable_parameters": trained,
        "rows": data["rows"],
        "tokens": data["tokens"],
        "longest_row_tokens": data["longest"],
        "truncated_rows": data["truncated"],
        "steps": steps,
        "memory_kind": "GPU memory" if kind == "cuda" else "memory",
        "memory_gb": {name: round(value, 4) for name, value in memory.items()},
        "available_gb": round(available, 2),
        "fits": memory["peak"] <= available,
        "seconds_per_step": per_step,
        "seconds": None if per_step is None else per_step * steps,
        "time_note": note,
    }


def check_arguments(config: TrainingConfig, directory: JobDirectory) -> None:
    """Build the method's arguments, so that a wrong one is found before training.

    Raises:
        ConfigError: naming the argument.
    """
    generates = METHODS[config.method].generates
    own = generation_arguments(config) if generates else {"max_length": config.max_length}
    training_arguments(config, directory, **own)


def lengths(config: TrainingConfig, folder: Path) -> dict[str, Any]:
    """Tokenise some rows; return rows, tokens, the longest row and how many are cut, of all."""
    from trainer.data import inspect_dataset

    rows = inspect_dataset(config).rows
    sampled = min(rows, SAMPLE_ROWS)
    prepared = _sample(config, sampled, folder)
    scale = rows / sampled
    answer = config.max_completion_length if METHODS[config.method].generates else 0
    longest = min(prepared.facts["longest"] + answer, config.max_length)
    return {
        "rows": rows,
        "train_rows": math.ceil(len(prepared.train) * scale),
        "tokens": round(prepared.facts["tokens"] * scale),
        "longest": config.max_length if _packs(config) else longest,
        "truncated": round(prepared.facts.get("truncated", 0) * scale),
    }


def total_steps(config: TrainingConfig, data: dict[str, Any]) -> int:
    """Return the number of optimizer steps."""
    if config.max_steps > 0:
        return int(config.max_steps)
    examples: int = data["train_rows"]
    if _packs(config):
        examples = math.ceil(data["tokens"] / config.max_length)
    examples *= uses_of_prompt(config)
    batches = math.ceil(examples / config.per_device_train_batch_size)
    per_epoch = max(1, math.ceil(batches / config.gradient_accumulation_steps))
    return math.ceil(config.num_train_epochs * per_epoch)


def empty_model(config: TrainingConfig) -> PreTrainedModel:
    """Return the model with its adapters on the meta device: shapes without storage."""
    import torch
    import transformers
    from transformers import AutoConfig

    from trainer.model import add_adapters, check_model_files

    check_model_files(config.model)
    dtype = getattr(torch, precision(config)) if config.peft else torch.float32
    try:
        architecture = AutoConfig.from_pretrained(_source(config))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"training.model: {config.model} cannot be read: {reason}.") from None
    kind = getattr(transformers, METHODS[config.method].auto_class(adapters=False))
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(architecture, dtype=dtype)
        return add_adapters(model, config.peft, method=config.method) if config.peft else model


def parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Return the number of all parameters and of those that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, _ in sizes), sum(n for n, trained in sizes if trained)


def memory_gb(config: TrainingConfig, model: PreTrainedModel, length: int) -> dict[str, float]:
    """Return the parts of the peak in GB; see the top of this file.

    Args:
        config: the config.
        model: the model, on whatever device.
        length: tokens of the longest row.
    """
    _, trained = parameters(model)
    batch, _ = split_batch(config.per_device_train_batch_size, 1, 1)
    sequences = METHODS[config.method].sequences
    parts = {
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
        "gradients": trained * GRADIENT_BYTES,
        "optimizer": trained * ADAM_BYTES,
        "activations": _activation_bytes(config, model.config, batch * sequences * length),
    }
    found = {name: size / GB for name, size in parts.items()}
    found["overhead"] = OVERHEAD_GB[available_gb()[0]]
    return {**found, "peak": sum(found.values())}


def available_gb() -> tuple[str, float]:
    """Return cuda or cpu, and the memory that is free there."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return "cuda", torch.cuda.mem_get_info()[0] / GB
    return "cpu", psutil.virtual_memory().available / GB


def probe(config: TrainingConfig, total: int, folder: Path) -> tuple[float | None, str]:
    """Return the seconds of one optimizer step, or None and why it was not measured."""
    import torch

    cuda = torch.cuda.is_available()
    if not cuda and total > PROBE_PARAMETERS:
        return None, "the model is too large to be tried on a CPU"
    try:
        # Imported here: this is the only estimate that needs the whole trainer.
        from trainer.probe import seconds_per_step

        return seconds_per_step(config, folder / "probe"), "measured"
    except OrchestratorError as error:
        return None, error.message
    except torch.OutOfMemoryError:
        return None, "memory ran out when it was tried"


def _sample(config: TrainingConfig, rows: int, folder: Path) -> Any:
    from trainer.data.tokenization import prepare_datasets
    from trainer.model import load_tokenizer

    dataset = config.dataset.model_copy(update={"max_rows": rows})
    sampled = config.model_copy(update={"dataset": dataset})
    return prepare_datasets(sampled, load_tokenizer(config), folder)


def _activation_bytes(config: TrainingConfig, architecture: Any, tokens: int) -> float:
    width = BYTES[precision(config)] / 2  # 34 bytes are for half precision
    text = architecture.get_text_config()
    layer = ACTIVATION_BYTES * width * text.hidden_size * tokens
    layers = text.num_hidden_layers * layer
    if config.gradient_checkpointing:
        layers = text.num_hidden_layers * 2 * width * text.hidden_size * tokens + layer
    outputs = 1 if METHODS[config.method].is_classifier else text.vocab_size
    logits = LOGIT_COPIES * 4 * outputs * tokens
    return float(layers + logits)


def _packs(config: TrainingConfig) -> bool:
    return config.packing if config.packing is not None else config.method == "cpt"


def _source(config: TrainingConfig) -> str:
    path = Path(config.model).expanduser()
    return str(path) if path.exists() else config.model


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Send what the libraries print to standard error: standard output is for the one object."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    with redirect_stdout(sys.stderr):
        yield


def main(path: str) -> int:
    """Print the estimate, or the error as a record, of the job in a JSON file."""
    try:
        with _quiet_libraries():
            found = estimate(validated(TrainingJob, read_json(Path(path)), path))
    except OrchestratorError as error:
        print(json.dumps(error.to_dict()))  # noqa: T201 - this is the answer
        return 1
    print(json.dumps(found))  # noqa: T201 - this is the answer
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
