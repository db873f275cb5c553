"""Make one adapter of several: `python -m trainer.results.combining FOLDER ADAPTER ADAPTER …`.

What LoRA adds to a layer is a product of two thin matrices. The sum of several such products is one of
wider ones, to the last bit but for rounding; so the result is an ordinary adapter of their common base,
whose rank is the sum of their ranks. It is used, merged and gone on with as any other.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config.adapter_files import SETTINGS, WEIGHTS, is_another, settings_here
from trainer.contract.errors import ConfigError, ModelNotFound, OrchestratorError
from trainer.contract.files import read_json, sha256_of
from trainer.contract.manifest import write_manifest

if TYPE_CHECKING:
    from torch import Tensor

APART = "Merge one into its base model (merge: true), and train the other on that."
USAGE = "usage: python -m trainer.results.combining FOLDER ADAPTER ADAPTER …"
PREFIX = "base_model.model."
A, B = ".lora_A.weight", ".lora_B.weight"
PLAIN = (True, False, "gaussian", "orthogonal", "eva", "loftq")
"""How LoRA may begin so that it adds to the base as it is; others take their beginning out of it."""
OTHERS = (
    "use_dora",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "alora_invocation_tokens",
)
TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "vocab*",
)


def combine(adapters: Sequence[Path], target: Path) -> None:
    """Write an adapter that adds to its base what several add, with a manifest that names them.

    Args:
        adapters: two or more folders, all LoRA of one base.
        target: a folder that is not there yet.

    Raises:
        ConfigError: they cannot be added up, or the folder is there.
        ModelNotFound: one is no adapter.
    """
    if len(adapters) < 2:
        raise ConfigError("Name two adapters or more.", "One alone is gone on with as it is.")
    if target.exists():
        raise ConfigError(f"{target} is there already.", "Name a folder that is not, or remove it.")
    settings = check_addable(adapters)
    parts = [_weights(folder) for folder in adapters]
    whole, ranks = _added(adapters, settings, parts)
    source = _with_tokenizer(adapters)

    from safetensors.torch import save_file

    target.mkdir(parents=True)
    save_file(whole, target / WEIGHTS, metadata={"format": "pt"})
    described = _described(settings, ranks)
    (target / SETTINGS).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    for path in (path for name in TOKENIZER for path in (source.glob(name) if source else ())):
        shutil.copy(path, target / path.name)
    made_of = [{"adapter": str(f), "sha256": sha256_of(f / WEIGHTS)} for f in adapters]
    write_manifest(target, combines=made_of)


@contextmanager
def refused_as(field: str) -> Iterator[None]:
    """Put the field of a job before what is said of the adapters that it names."""
    try:
        yield
    except OrchestratorError as error:
        raise type(error)(f"{field}: {error.message}", error.suggestion) from error


def check_addable(adapters: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the settings of adapters that can be added up, as far as these and their tokenizers say.

    Raises:
        ConfigError: they cannot be added up.
        ModelNotFound: one is no adapter.
    """
    settings = [_settings(folder) for folder in adapters]
    _check_alike(adapters, settings)
    _with_tokenizer(adapters)
    return settings


def _settings(folder: Path) -> dict[str, Any]:
    if not (folder / SETTINGS).is_file():
        raise ModelNotFound(
            f"{folder} is no folder of an adapter: it has no {SETTINGS}.",
            "Fetch one of the Hub first: hf download OWNER/NAME --local-dir FOLDER",
        )
    settings = settings_here(str(folder)) or {}
    others = [name for name in OTHERS if settings.get(name)]
    begun = settings.get("init_lora_weights", True)
    why = ""
    if settings.get("peft_type") != "LORA":
        why = f"is of type {settings.get('peft_type')}"
    elif others or settings.get("bias", "none") != "none":
        why = (
            f"has {others[0] if others else 'bias'} = {settings[others[0] if others else 'bias']!r}"
        )
    elif begun not in PLAIN:
        why = f"began by {begun}, which changes the base"
    if why:
        raise ConfigError(f"{folder} {why}, and only plain LoRA can be added up.", APART)
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(
            f"{folder} has no {WEIGHTS}.", "Save it again with PEFT's save_pretrained."
        )
    return settings


def _check_alike(adapters: Sequence[Path], settings: Sequence[dict[str, Any]]) -> None:
    first, base = adapters[0], str(settings[0].get("base_model_name_or_path") or "")
    for folder, one in zip(adapters[1:], settings[1:], strict=True):
        if is_another(str(one.get("base_model_name_or_path") or ""), base):
            raise ConfigError(
                f"{folder} is an adapter of {one.get('base_model_name_or_path')}, and {first} of {base}.",
                "Name adapters of one base model.",
            )
        for name in ("task_type", "fan_in_fan_out"):
            if (one.get(name) or None) != (settings[0].get(name) or None):
                raise ConfigError(
                    f"{folder} has {name} = {one.get(name)!r}, and {first} {settings[0].get(name)!r}.",
                    "Name adapters that do the same.",
                )
    trained = [folder for folder, one in zip(adapters, settings, strict=True) if _rows(one)]
    if len(trained) > 1:
        raise ConfigError(
            f"{trained[0]} and {trained[1]} have both trained rows of new tokens.", APART
        )


def _with_tokenizer(adapters: Sequence[Path]) -> Path | None:
    """Return the last adapter with a tokenizer; refuse those of different tokens, or templates."""

    def of(folder: Path) -> Any:
        read = read_json(folder / "tokenizer.json")
        if read is None:
            return None
        template = folder / "chat_template.jinja"
        kept = {
            name: value for name, value in read.items() if name not in {"padding", "truncation"}
        }
        return kept, template.read_text(encoding="utf-8") if template.is_file() else None

    # One without any was trained with that of the base, and so were those that differ in nothing.
    known = [(folder, found) for folder in adapters if (found := of(folder)) is not None]
    for folder, found in known[:-1]:
        if found != known[-1][1]:
            raise ConfigError(
                f"{folder} and {known[-1][0]} have not the same tokenizer and chat template.",
                "Train them with one tokenizer and one template.",
            )
    return known[-1][0] if known else None


def _rows(settings: dict[str, Any]) -> Any:
    return settings.get("trainable_token_indices")


def _weights(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS).items()}


def _added(
    adapters: Sequence[Path],
    settings: Sequence[dict[str, Any]],
    parts: Sequence[dict[str, Tensor]],
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Return the weights of the sum, and the rank of every layer."""
    import torch

    whole: dict[str, Tensor] = {}
    owners: dict[str, Path] = {}
    for folder, part in zip(adapters, parts, strict=True):
        for name, tensor in part.items():
            if name.endswith((A, B)):
                continue
            layer, owner = name.removeprefix(PREFIX), owners.setdefault(name, folder)
            if ".lora_" in name:
                raise ConfigError(f"{folder} adapts {layer}, which cannot be added up.", APART)
            if owner != folder:
                both = f"{owner} and {folder} have both trained {layer} in full."
                raise ConfigError(both, APART)
            whole[name] = tensor
    layers = dict.fromkeys(n.removesuffix(A) for part in parts for n in part if n.endswith(A))
    ranks = {}
    for layer in layers:
        having = [(s, p) for s, p in zip(settings, parts, strict=True) if layer + A in p]
        # What each is multiplied by goes into one of its matrices: afterwards that is 1 for all.
        scaled = [p[layer + B] * _scale(s, layer, len(p[layer + A])) for s, p in having]
        whole[layer + A] = torch.cat([p[layer + A] for _, p in having]).contiguous()
        whole[layer + B] = torch.cat(scaled, dim=1).contiguous()
        ranks[layer.removeprefix(PREFIX)] = len(whole[layer + A])
    return whole, ranks


def _scale(settings: dict[str, Any], layer: str, rank: int) -> float:
    """Return by what PEFT multiplies an adapter's product in a layer."""
    alpha = settings["lora_alpha"]
    for key, value in (settings.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({key})$", layer.removeprefix(PREFIX)):  # the first, as PEFT takes it
            alpha = value
            break
    return float(alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank))


def _described(settings: Sequence[dict[str, Any]], ranks: dict[str, int]) -> dict[str, Any]:
    [(usual, _)] = Counter(ranks.values()).most_common(1)
    others = {layer: rank for layer, rank in ranks.items() if rank != usual}
    saved = dict.fromkeys(n for one in settings for n in one.get("modules_to_save") or ())
    rows = next((found for one in settings if (found := _rows(one))), None)
    return {
        **settings[-1],
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "use_rslora": False,
        "target_modules": sorted(ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "modules_to_save": [*saved] or None,
        "trainable_token_indices": rows,
    }


def main(words: Sequence[str]) -> int:
    """Combine, and say so; return 2 where that cannot be done, with the reason."""
    if len(words) < 3:
        print(USAGE, file=sys.stderr)  # noqa: T201
        return 2
    target, *adapters = (Path(word).expanduser() for word in words)
    try:
        combine(adapters, target)
    except OrchestratorError as error:
        print(f"{error.message} {error.suggestion}", file=sys.stderr)  # noqa: T201
        return 2
    print(f"{target} adds up {', '.join(map(str, adapters))}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
