"""README.md of an output: how it was made, from what, how good it is, how to load it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.config import QuantizationConfig, TrainingConfig
from trainer.config.methods import METHODS, SEEING_MODEL
from trainer.contract.job_directory import GGUF, MERGED
from trainer.contract.manifest import MANIFEST
from trainer.contract.words import number
from trainer.data.hub import hub_name
from trainer.results.markdown import cell, code, table
from trainer.results.summary import Summary

VERSIONS = ("torch", "transformers", "trl", "peft")
MISSING = "not installed"
NO_SETTINGS = {"model", "dataset", "report_to", "command", "trainer", "push_to_hub"}
"""What the card says elsewhere, or what says nothing about the model."""


def model_card(summary: Summary, place: str = ".") -> str:
    """Return the card.

    Args:
        summary: of the training, with names instead of paths where others will read them.
        place: from where it is loaded: this folder, or a repository of the Hub.
    """
    config, data = _with_classes(summary), summary.data
    # All of them, defaults too: a default may change in a later version.
    settings = config.model_dump(exclude=NO_SETTINGS, exclude_none=True)
    sections = {
        "Results": table("metric", "before → after", summary.results()),
        **_confusion(summary.made),
        "Training": table("setting", "value", summary.settings()),
        "Load": ["```python", *loading(config, place, sees=bool(summary.made.get("sees"))), "```"],
        "Reproduce": [
            f"Dataset: SHA-256 {code(str(data.get('sha256', 'unknown')))}, "
            f"{number(data.get('rows'))} rows, {number(data.get('tokens'))} tokens. All settings:",
            "",
            *table("name", "value", {name: _text(value) for name, value in settings.items()}),
            "",
            *table("package", "version", _versions()),
        ],
    }
    return "\n".join(
        [
            "---",
            *_front_matter(config),
            "---",
            "",
            f"# {config.method.upper()} {'adapter' if config.peft else 'model'}",
            "",
            summary.headline(),
            *(f"\n**Note:** {warning}" for warning in summary.warnings()),
            *(line for name, body in sections.items() for line in ("", f"## {name}", "", *body)),
            "",
        ]
    )


def _with_classes(summary: Summary) -> TrainingConfig:
    """Return the settings with the classes that the training found, where the job named none."""
    config, labels = summary.config, summary.made.get("labels")
    if config.labels is not None or not isinstance(labels, list):
        return config
    return config.model_copy(update={"labels": [str(label) for label in labels]})


def _confusion(made: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the section that says which classes of held-out rows are taken for which."""
    labels, counts = made.get("labels"), made.get("taken_for")
    if not counts:
        return {}
    head = ["is \\ is taken for", *(cell(code(str(label))) for label in labels or [])]
    rows = [[head[i + 1], *map(number, row)] for i, row in enumerate(counts)]
    lines = [head, ["---"] * len(head), *rows]
    return {"Held-out rows by class": [f"| {' | '.join(line)} |" for line in lines]}


def is_on_hub(name: str) -> bool:
    """Whether a model or dataset is a repository of the Hub, as owner/name, rather than a path."""
    return name.count("/") == 1 and name[0] not in "./~" and not Path(name).exists()


# https://huggingface.co/docs/hub/model-cards
def _front_matter(config: TrainingConfig) -> list[str]:
    """Return what the Hub reads of a card; it knows bases and datasets by their names there."""
    library = "peft" if config.peft else "transformers"
    task = "text-classification" if METHODS[config.method].is_classifier else "text-generation"
    return [
        *([f"base_model: {json.dumps(config.model)}"] if is_on_hub(config.model) else []),
        *([f"datasets: {json.dumps(on_hub)}"] if (on_hub := _hub_datasets(config)) else []),
        f"library_name: {library}",
        f"pipeline_tag: {task}",
        f"tags: [training-orchestrator, {config.method}]",
    ]


def _hub_datasets(config: TrainingConfig) -> list[str]:
    named = [hub_name(one.path) for one in config.dataset.each() if not Path(one.path).exists()]
    return list(dict.fromkeys(n.repository for n in named if n and "/" in n.repository))


def loading(config: TrainingConfig, place: str, *, sees: bool = False) -> list[str]:
    """Return the lines of Python that load the result from a folder, or a repository of the Hub.

    Args:
        config: the job's settings.
        place: the folder, or the repository.
        sees: whether the model is one that sees, of which the language part was trained.
    """
    method = METHODS[config.method]
    plain = SEEING_MODEL if sees else method.auto_class(adapters=False)
    kind = method.auto_class(adapters=True) if config.peft else plain
    package = "peft" if config.peft else "transformers"
    where = json.dumps(place)
    lines = [
        f"from {package} import {kind}",
        "from transformers import AutoTokenizer",
        "",
        *(_classes(config, place) if method.has_classes and config.peft else ()),
        f"model = {kind}.from_pretrained({where}{_head(config)})"
        + ("  # this folder" if place == "." else ""),
        f"tokenizer = AutoTokenizer.from_pretrained({where})",
        *(["model.config.pad_token_id = tokenizer.pad_token_id"] if method.is_classifier else ()),
    ]
    if config.peft and sees:  # PEFT has no class of its own for them
        imports, base = _loading_base_first(config, where, plain)[1:4], lines[-1:]
        lines = [lines[1], *imports, *base, *_loading_base_first(config, where, plain)[4:]]
    elif config.peft:
        lines += ["", *_loading_base_first(config, where, plain)]
    if config.quantization:
        lines += ["", *_loading_quantised(config.quantization, kind, where)]
    if config.merge:
        lines += [
            "",
            "# Or the base model with the adapter merged in, without PEFT:",
            f"from transformers import {plain}",
            "",
            f'model = {plain}.from_pretrained({where}, subfolder="{MERGED}")',
        ]
    if config.export:
        lines += ["", f"# For llama.cpp, Ollama and the like: {GGUF}/*.gguf"]
    return lines


def _loading_base_first(config: TrainingConfig, where: str, base: str) -> list[str]:
    rows = ["base.resize_token_embeddings(max(tokenizer.get_vocab().values()) + 1)"]
    return [
        "# Or the base model first, then the adapter on top:",
        "from peft import PeftModel",
        f"from transformers import {base}",
        "",
        f"base = {base}.from_pretrained({json.dumps(config.model)}{_head(config)})",
        *(rows if config.new_tokens else ()),
        f"model = PeftModel.from_pretrained(base, {where})",
    ]


def _classes(config: TrainingConfig, place: str) -> list[str]:
    """Return the lines that say which classes an adapter's head has; PEFT saves none of their names."""
    known = json.dumps(config.labels, ensure_ascii=False)
    manifest = f"{place}/{MANIFEST}"
    read = f'json.load(open({json.dumps(manifest)}))["training"]["labels"]'
    return [
        f"labels = {known}" if config.labels else f"import json\n\nlabels = {read}",
        'names = {"id2label": dict(enumerate(labels)), "label2id": {n: i for i, n in enumerate(labels)}}',
    ]


def _head(config: TrainingConfig) -> str:
    """Return what a classifier's head needs to be told; nothing where its own config says it."""
    method = METHODS[config.method]
    if not (method.is_classifier and config.peft):
        return ""
    return ", **names" if method.has_classes else ", num_labels=1"


def _loading_quantised(quantization: QuantizationConfig, kind: str, where: str) -> list[str]:
    names = ["load_in_8bit"]
    if quantization.load_in_4bit:
        names = ["load_in_4bit", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant"]
    given = ", ".join(f"{name}={getattr(quantization, name)!r}" for name in names)
    return [
        f"# Or on a base of {quantization.bits} bits, as it was trained:",
        "from transformers import BitsAndBytesConfig",
        "",
        f"bits = BitsAndBytesConfig({given})",
        f"model = {kind}.from_pretrained({where}, quantization_config=bits)",
    ]


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _versions() -> dict[str, str]:
    return {name: _version(name) for name in VERSIONS} | {"training-orchestrator": _own_version()}


def _own_version() -> str:
    """Return our version; on a rented machine only the trainer is installed."""
    # The trainer is shipped there as a wheel of its own.
    own = _version("training-orchestrator")
    return own if own != MISSING else _version("training-orchestrator-trainer")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return MISSING
