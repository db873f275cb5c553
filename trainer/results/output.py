"""What a finished job leaves in output/: safetensors, tokenizer, model card, manifest.

output/                 the adapter, or the model where all weights were trained
output/generation_config.json   where it stops, if it learned from chats
output/merged/          the base model with the adapter merged in, where `merge` asks for it
output/gguf/            one file for llama.cpp, where `export` asks for it
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from trainer.config import TrainingConfig
from trainer.contract.errors import IntegrityError, TrainingFailed
from trainer.contract.files import fsync_directory
from trainer.contract.job_directory import GGUF, MERGED, JobDirectory
from trainer.contract.manifest import WEIGHTS, verify, write_manifest
from trainer.contract.metrics import final_metrics
from trainer.engine.failures import translate
from trainer.results.generation import write_generation_config
from trainer.results.merging import let_go, needs_merging, write_merged
from trainer.results.model_card import model_card
from trainer.results.summary import Summary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def is_whole(folder: Path) -> bool:
    """Whether an output is there and holds against its manifest."""
    try:
        verify(folder)
    except IntegrityError:
        return False
    return True


def write_output(
    directory: JobDirectory,
    config: TrainingConfig,
    named: TrainingConfig,
    trainer: Any,
    tokenizer: PreTrainedTokenizerBase,
    facts: dict[str, Any],
    *,
    weights: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write output/ in one step and return its manifest.

    Args:
        directory: where to write.
        config: the job's settings, with model and dataset where they lie here.
        named: the same as its user gave them, for the model card.
        trainer: a `JobTrainer` with the trained model; of a PEFT model only the adapters are
            written. Where the job merges it is unusable afterwards.
        tokenizer: as used, chat template included.
        facts: what else the manifest holds: `data`, the dataset's rows, tokens and sha256; `usage`,
            memory and time predicted and used; `training`, what was decided here; `code`, the
            SHA-256 of the user's own.
        weights: the model's, by name, where each process holds a part of them only.
    """
    staged = directory.root / ".output"
    shutil.rmtree(staged, ignore_errors=True)
    metrics = final_metrics(directory.metrics)
    with_room = trainer.run.with_room
    try:
        with_room(lambda: _save(trainer.model, named, staged, weights))
        tokenizer.save_pretrained(staged)
        # After the adapter is written: training state is let go here for good.
        if needs_merging(config):
            let_go(trainer)
            _say(f"merging the adapter onto {config.model}")
            with_room(lambda: write_merged(config, staged, staged / MERGED, tokenizer))
        if turn_end := facts["data"].get("turn_end"):
            folders = [path for path in (staged, staged / MERGED) if path.is_dir()]
            write_generation_config(folders, trainer.model, tokenizer, turn_end)
        if config.export:
            with_room(lambda: _export(config, staged, tokenizer))
        # Merged only as a step towards the export.
        if not config.merge:
            shutil.rmtree(staged / MERGED, ignore_errors=True)
        summary = Summary(config=named, metrics=metrics, data=facts["data"], made=facts["training"])
        (staged / "README.md").write_text(model_card(summary), encoding="utf-8")
        manifest = write_manifest(staged, method=config.method, metrics=metrics, **facts)
    except Exception as error:
        # Before the folder goes: the message says how full the disk was.
        named_error = translate(error, directory.root)
        shutil.rmtree(staged, ignore_errors=True)
        raise named_error from error
    shutil.rmtree(directory.output, ignore_errors=True)
    staged.rename(directory.output)
    # The rename itself must survive a power cut, or a resumed job would merge all over again.
    fsync_directory(directory.root)
    return manifest


def _save(model: Any, named: TrainingConfig, folder: Path, weights: dict[str, Any] | None) -> None:
    for adapter in getattr(model, "peft_config", {}).values():
        # Where it was loaded from on this machine means nothing on another.
        adapter.base_model_name_or_path = named.model
        if getattr(adapter, "tokenizer_name_or_path", None):
            adapter.tokenizer_name_or_path = named.model
    # dpo and kto may keep their reference as a second adapter, which is not part of the result.
    trained = {"selected_adapters": ["default"]} if named.peft else {}
    model.save_pretrained(folder, state_dict=weights, **trained)
    # A file without any looks like a result, and is none: names may not be those looked for.
    if not any(map(_has_tensors, folder.glob(f"*{WEIGHTS}"))):
        raise TrainingFailed(
            f"{type(model).__name__} would write no weights of those that were trained.",
            "The newest checkpoint holds them. Report this with the log.",
        )


def _has_tensors(file: Path) -> bool:
    with safe_open(file, "pt") as weights:
        return bool(weights.keys())


def _export(config: TrainingConfig, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    from trainer.results.gguf.writing import write_gguf

    file = folder / GGUF / f"model-{config.gguf_quantization}.gguf"
    _say(f"writing {file.name}")
    source = folder / MERGED if config.peft else folder
    write_gguf(source, tokenizer, file, config.gguf_quantization)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - standard output is the job's log
