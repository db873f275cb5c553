"""What a training learns from: its rows, template, tokenizer, base model and the user's code.

Every checkpoint holds their hashes, so that a job which goes on weeks later, or elsewhere, does not
go on from something else in silence.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.config.code_references import code_hashes
from trainer.config.model_code import code_of
from trainer.contract.checkpoints import ACCEPT_VARIABLE, INPUTS
from trainer.contract.errors import ConfigError
from trainer.contract.files import read_json, sha256_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

ACCEPTED = "accepted"
"""The entry of the file that says which acceptance the training went on by."""
CONFIGS = ("config.json", "adapter_config.json")
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")
SAMPLES, SAMPLE_BYTES = 16, 64 << 10
"""Of each file of weights: any training changes bytes everywhere in it, and reading all of many
gigabytes at every start takes minutes."""
DIGITS = 12  # of a hash, in a sentence


def inputs_of(
    config: TrainingConfig,
    facts: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    architecture: PretrainedConfig,
) -> dict[str, str]:
    """Return a hash of everything that is learned from, by its name in a sentence.

    Args:
        config: the job's settings.
        facts: of the data: see `trainer.data.tokenization.PreparedData`.
        tokenizer: as the rows were tokenised, its chat template included.
        architecture: the model's config, which knows its revision on the Hub.
    """
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # Calls leave their padding and truncation in the tokenizer's state.
    backend |= {"padding": None, "truncation": None}
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    found = {
        **_data(facts),
        "the chat template": _hash(str(tokenizer.chat_template)),
        "the tokenizer": _hash(json.dumps([backend, special], sort_keys=True)),
        "training.model": _model(config, architecture),
    }
    if config.adapter and (folder := Path(str(config.adapter)).expanduser()).is_dir():
        found["training.adapter"] = _folder(folder)
    if config.reward_model and (folder := Path(config.reward_model).expanduser()).is_dir():
        found["training.reward_model"] = _folder(folder)
    own = code_of(config.model) if config.trust_remote_code else {}
    found |= {f"the model's code {name}": sha256 for name, sha256 in own.items()}
    return found | {f"the code {name}": sha256 for name, sha256 in code_hashes(config).items()}


def refuse_changes(checkpoint: Path, inputs: dict[str, str]) -> None:
    """Refuse to go on from a checkpoint that has learned from something else.

    Where a person has accepted the changes, `inputs` notes so, and goes into later checkpoints.

    Raises:
        ConfigError: naming what changed.
    """
    before = read_json(checkpoint / INPUTS)
    if before is None:  # saved by an earlier version
        return
    accepted = before.get(ACCEPTED, "")
    changed = [
        f"{name} (SHA-256 {str(before[name])[:DIGITS]}…, now {value[:DIGITS]}…)"
        for name, value in inputs.items()
        if before.get(name, value) != value
    ]
    word = os.environ.get(ACCEPT_VARIABLE, "")
    if not changed or (word and word != accepted):
        inputs[ACCEPTED] = word if changed else accepted
        return
    raise ConfigError(
        f"Since {checkpoint.name} was saved, something that the job learns from has changed: "
        f"{'; '.join(changed)}.",
        "Put back what it was, or go on with it as it is: trainctl resume JOB --accept-changes",
    )


def _data(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the hash of every data set, and of what is evaluated on."""
    found = {}
    for source in facts.get("sources", [facts]):
        named = f"the data set {source['name']}" if "name" in source else "dataset.path"
        found[named] = str(source["sha256"])
        if held_out := source.get("evaluation"):
            of = f" of {source['name']}" if "name" in source else ""
            found[f"the rows to evaluate on{of}"] = str(held_out["sha256"])
    return found


def _model(config: TrainingConfig, architecture: PretrainedConfig) -> str:
    folder = Path(config.model).expanduser()
    if not folder.is_dir():
        return str(getattr(architecture, "_commit_hash", None) or "")
    return _folder(folder, weights=config.init != "random")


def _folder(folder: Path, *, weights: bool = True) -> str:
    """Return a hash of the configs in a model's folder, and of samples of its weights."""
    total = hashlib.sha256()
    for path in sorted(path for name in CONFIGS for path in folder.glob(name)):
        total.update(f"{path.name} {sha256_of(path)}\n".encode())
    for path in sorted(path for name in WEIGHTS for path in folder.glob(name)) if weights else ():
        total.update(f"{path.name} {path.stat().st_size}\n".encode())
        _sample(path, total)
    return total.hexdigest()


def _sample(path: Path, total: Any) -> None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        for number in range(SAMPLES):
            stream.seek(max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            total.update(stream.read(SAMPLE_BYTES))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
