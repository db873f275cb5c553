"""What a finished job leaves in output/: safetensors, tokenizer, model card, manifest."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.errors import IntegrityError
from trainer.failures import translate
from trainer.files import fsync_directory
from trainer.job_directory import JobDirectory
from trainer.manifest import verify, write_manifest
from trainer.methods import METHODS
from trainer.metrics import final_metrics

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VERSIONS = ("torch", "transformers", "trl", "peft")
MISSING = "not installed"


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
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: dict[str, Any],
    *,
    code: dict[str, str] | None = None,
    usage: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Write output/ in one step and return its manifest.

    Args:
        directory: where to write.
        config: the job's settings as its user gave them, for the model card.
        model: the trained model; of a PEFT model only the adapters are written.
        tokenizer: as used, chat template included.
        data: facts about the dataset: rows, tokens, sha256.
        code: the SHA-256 of each file of the user's own code, by name.
        usage: memory and time, predicted and used; see `trainer.usage`.
    """
    staged = directory.root / ".output"
    shutil.rmtree(staged, ignore_errors=True)
    metrics = final_metrics(directory.metrics)
    for adapter in getattr(model, "peft_config", {}).values():
        adapter.base_model_name_or_path = config.model  # where its user has it
    try:
        # A reference that dpo and kto keep as a second adapter is no part of the result.
        trained = {"selected_adapters": ["default"]} if config.peft else {}
        model.save_pretrained(staged, **trained)
        tokenizer.save_pretrained(staged)
        (staged / "README.md").write_text(model_card(config, data, metrics), encoding="utf-8")
        facts = {"data": data, "usage": usage or {}, **({"code": code} if code else {})}
        manifest = write_manifest(staged, method=config.method, metrics=metrics, **facts)
    except Exception as error:
        named = translate(error, directory.root)  # first: it tells how full the disk was
        shutil.rmtree(staged, ignore_errors=True)
        raise named from error
    shutil.rmtree(directory.output, ignore_errors=True)
    staged.rename(directory.output)
    fsync_directory(directory.root)
    return manifest


def model_card(config: TrainingConfig, data: dict[str, Any], metrics: dict[str, float]) -> str:
    """Return README.md: how it was made, from what, how good it is, how to load it."""
    kind = "adapter" if config.peft else "model"
    settings = config.model_dump(exclude={"model", "dataset"}, exclude_none=True)
    return "\n".join(
        [
            "---",
            f"base_model: {json.dumps(config.model)}",
            *(["library_name: peft"] if config.peft else ["library_name: transformers"]),
            "tags: [training-orchestrator, " + config.method + "]",
            "---",
            "",
            f"# {config.method.upper()} {kind}",
            "",
            f"Base model: `{config.model}`. Dataset: `{config.dataset.path}`, "
            f"SHA-256 `{data.get('sha256', 'unknown')}`, {data.get('rows', 0)} rows, "
            f"{data.get('tokens', 0)} tokens.",
            "",
            "## Load",
            "",
            "```python",
            *_loading(config),
            "```",
            "",
            "## Metrics",
            "",
            *_table(metrics),
            "",
            "## Settings",
            "",
            *_table(settings),
            "",
            "## Versions",
            "",
            *_table({name: _version(name) for name in VERSIONS}),
            f"| training-orchestrator | {_own_version()} |",
            "",
        ]
    )


def _loading(config: TrainingConfig) -> list[str]:
    kind = METHODS[config.method].auto_class(adapters=config.peft is not None)
    package = "peft" if config.peft else "transformers"
    return [
        f"from {package} import {kind}",
        "from transformers import AutoTokenizer",
        "",
        f'model = {kind}.from_pretrained(".")  # this folder',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
    ]


def _table(facts: dict[str, Any]) -> list[str]:
    rows = [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    return ["| name | value |", "| --- | --- |", *rows]


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def _own_version() -> str:
    """Return our version; on a rented machine only the trainer is installed."""
    own = _version("training-orchestrator")
    return own if own != MISSING else _version("training-orchestrator-trainer")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return MISSING
