"""Estimate what a job takes: `python -m trainer.training.estimate JOB.json` prints one JSON object.

Memory is predicted by `trainer.engine.memory_prediction`. Time is measured: a few steps of the real training on real
rows, where that is cheap.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig, TrainingJob
from trainer.config.generation import generation_arguments, uses_of_prompt
from trainer.config.methods import METHODS
from trainer.contract.errors import ModelNotFound, OrchestratorError
from trainer.contract.job_directory import JobDirectory
from trainer.data import inspect_dataset
from trainer.data.mixing import rows_of_epoch
from trainer.data.tally import mix_told, remarks, told, warning_about
from trainer.engine.arguments import training_arguments
from trainer.engine.limits import check_limits
from trainer.engine.memory_prediction import available_gb, empty_model, on_a_gpu, predicted
from trainer.engine.model import load_tokenizer, parameters
from trainer.results.summary import batch_in_words
from trainer.training.answering import answer, start_alone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLE_ROWS = 500  # tokenised to know the lengths; the rest is taken to be like them
PROBE_PARAMETERS = 200e6  # on a CPU a larger model is not tried


def estimate(job: TrainingJob) -> dict[str, Any]:
    """Return what the job takes; times are seconds, memory is GB of 1e9 bytes.

    Raises:
        OrchestratorError: an argument, the model or a row is wrong.
    """
    config = job.training
    with tempfile.TemporaryDirectory() as folder:
        check_arguments(config, JobDirectory(folder))
        tokenizer = load_tokenizer(config)
        data = lengths(config, Path(folder), tokenizer)
        model = empty_model(config)
        warnings = check_limits(model, tokenizer, config, data["facts"])
        processes = job.processes_per_machine
        together, sharing = processes * job.resources.nodes, job.sharing
        wanted = config
        config, memory = predicted(config, data["longest"], model=model, processes=sharing)
        kind, available = available_gb(processes)
        # Beyond this computer other GPUs are asked for; tracing them takes a second or two.
        elsewhere = job.providers != ["local"] and job.resources.gpu_count != 0
        gpu = on_a_gpu(wanted, data["longest"], processes=sharing) if elsewhere else None
        steps = total_steps(config, data, together)
        trained, total = parameters(model)
        per_step, note = probe(config, total, Path(folder))
    return {
        "parameters": total,
        "trainable_parameters": trained,
        "rows": data["rows"],
        "tokens": data["tokens"],
        "longest_row_tokens": data["longest"],
        "truncated_rows": data["truncated"],
        "told": [*data["told"], *(f"WARNING: {warning}" for warning in warnings)],
        "steps": steps,
        "batch": batch_in_words(config, together),
        "memory_kind": "GPU memory" if kind == "cuda" else "memory",
        "gradient_checkpointing": config.gradient_checkpointing,
        "memory_gb": {name: round(value, 4) for name, value in memory.items()},
        "available_gb": round(available, 2),
        "fits": memory["peak"] <= available,
        "gpu_memory": gpu,
        "seconds_per_step": per_step,
        "seconds": None if per_step is None else per_step * steps,
        "time_note": note,
    }


def check_arguments(config: TrainingConfig, directory: JobDirectory) -> None:
    """Build the method's arguments, so that a wrong one is found before training.

    Raises:
        ConfigError: naming the argument.
    """
    method = METHODS[config.method]
    own = generation_arguments(config) if method.generates else {"max_length": config.max_length}
    if method.has_classes:  # its arguments are transformers' own, which know no length
        own = {}
    # DeepSpeed need not be installed where a job is only checked.
    training_arguments(config.model_copy(update={"parallelism": "ddp"}), directory, **own)


def lengths(
    config: TrainingConfig, folder: Path, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Tokenise some rows; return rows, tokens, the longest row and how many are cut, of all."""
    report = inspect_dataset(config)
    read = [each.rows for each in report.sources or (report,)]
    sampled = [min(rows, SAMPLE_ROWS) for rows in read]
    # The first rows, not random ones: a large file is then read only in part.
    prepared = _sample(config, folder, tokenizer)
    line = told(prepared.facts, config.max_length)
    warning = warning_about(prepared.facts, config.max_length)
    scales = [rows / some for rows, some in zip(read, sampled, strict=True)]
    parts = prepared.facts.get("sources", [prepared.facts])
    sizes = [math.ceil(p["train_rows"] * scale) for p, scale in zip(parts, scales, strict=True)]
    counts = rows_of_epoch(sizes, config.dataset.sources) if report.sources else sizes
    used = scales
    if report.sources:  # an epoch has rows of each, as long as those of the sample
        used = [count / max(1, part["kept"]) for count, part in zip(counts, parts, strict=True)]
    return {
        "told": [
            f"{line}." if sampled == read else f"the first {line}.",
            *(f"{each}." for each in mix_told(prepared.facts) if sampled == read),
            *remarks(prepared.facts),
            *([f"WARNING: {warning}"] if warning else []),
        ],
        "facts": prepared.facts,
        "rows": sum(counts) if report.sources else report.rows,
        "train_rows": sum(counts),
        "tokens": round(sum(p["tokens"] * often for p, often in zip(parts, used, strict=True))),
        "longest": prepared.facts["longest"],
        "truncated": round(
            sum(p.get("truncated", 0) * scale for p, scale in zip(parts, scales, strict=True))
        ),
    }


def total_steps(config: TrainingConfig, data: dict[str, Any], processes: int = 1) -> int:
    """Return the number of optimizer steps of a training by this number of processes."""
    if config.max_steps > 0:
        return int(config.max_steps)
    examples: int = data["train_rows"]
    # Packed rows are counted in blocks, whatever the number of rows.
    if config.packs:
        examples = math.ceil(data["tokens"] / config.max_length)
    examples *= uses_of_prompt(config)
    batches = math.ceil(examples / config.per_device_train_batch_size / processes)
    per_epoch = max(1, math.ceil(batches / config.gradient_accumulation_steps))
    return math.ceil(config.num_train_epochs * per_epoch)


def probe(config: TrainingConfig, total: int, folder: Path) -> tuple[float | None, str]:
    """Return the seconds of one optimizer step, or None and why it was not measured."""
    import torch

    if config.reward_judge:
        return None, "a trial would ask the judge, which may cost money"
    cuda = torch.cuda.is_available()
    if not cuda and total > PROBE_PARAMETERS:
        return None, "the model is too large to be tried on a CPU"
    try:
        # Imported here: this is the only estimate that needs the whole trainer.
        from trainer.training.probe import seconds_per_step

        return seconds_per_step(config, folder / "probe"), "measured"
    except ModelNotFound:  # of other errors some rows alone may be the reason
        raise
    except OrchestratorError as error:
        return None, error.message
    # The estimate is still worth something without a time.
    except torch.OutOfMemoryError:
        return None, "memory ran out when it was tried"


def _sample(config: TrainingConfig, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Any:
    """Tokenise the first rows of each data set."""
    from trainer.data.tokenization import prepare_datasets

    dataset = config.dataset.with_at_most(SAMPLE_ROWS)
    sampled = config.model_copy(update={"dataset": dataset})
    return prepare_datasets(sampled, tokenizer, folder)


def main(path: str) -> int:
    """Print the estimate, or the error as a record, of the job in a JSON file."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    return answer(path, estimate)


if __name__ == "__main__":
    start_alone(sys.argv[1])
    sys.exit(main(sys.argv[1]))
