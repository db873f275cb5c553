"""The settings and weights of an adapter to go on with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import PeftSettings, TrainingConfig
from trainer.config.adapter_files import (
    SCORES,
    WRITES,
    as_settings,
    check_adapter,
    check_task,
    goes_on,
)
from trainer.config.methods import METHODS
from trainer.contract.errors import ConfigError
from trainer.engine.attention import without_adapters
from trainer.engine.loading import loaded_adapter
from trainer.engine.vocabulary import ROWS, save_rows_alone

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor
    from transformers import PreTrainedModel

HEADS = ("score", "classifier")
TOKENIZER = "tokenizer_config.json"


def load_adapter_settings(config: TrainingConfig) -> PeftSettings:
    """Return the settings of the adapter to go on with, as ours.

    Raises:
        ModelNotFound: it cannot be loaded.
        ConfigError: it is not one that can be trained further.
    """
    settings = own_settings(config)
    return as_settings({**settings.to_dict(), "peft_type": str(settings.peft_type.value)})


def adapter_task(config: TrainingConfig) -> str | None:
    """Return what the adapter to go on with was trained for, in PEFT's word; None: it does not say.

    Raises:
        ModelNotFound: it cannot be loaded.
    """
    import peft

    task = loaded_adapter(peft.PeftConfig.from_pretrained, config).task_type
    return None if task is None else str(getattr(task, "value", task))


def own_settings(config: TrainingConfig) -> PeftConfig:
    """Return the settings of the adapter to go on with, as PEFT's, ready to be trained.

    Raises:
        ModelNotFound: it cannot be loaded.
        ConfigError: it is not one that can be trained further.
    """
    import peft

    scores = METHODS[config.method].is_classifier
    check_adapter(str(config.adapter), config.model, scores=scores)
    settings: PeftConfig = loaded_adapter(peft.PeftConfig.from_pretrained, config)
    kind = str(settings.peft_type.value)
    if not goes_on(kind):  # of one on the Hub that is seen here only
        raise ConfigError(
            f"training.adapter: {config.adapter} is an adapter of type {kind}, which cannot be trained "
            "further.",
            "Start a new adapter, or merge that one into its base model.",
        )
    check_task(str(config.adapter), settings.task_type, scores=scores)
    settings.task_type = SCORES if scores else WRITES
    if scores:  # PEFT adds the usual heads once more
        others = [name for name in settings.modules_to_save or () if name not in HEADS]
        settings.modules_to_save = others or None
    settings.inference_mode = False
    return settings


def load_adapter(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Put the weights of the adapter to go on with into those of a model.

    Raises:
        ModelNotFound: it cannot be loaded.
        ConfigError: it does not fit the model.
    """
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    weights = loaded_adapter(load_peft_weights, config, device="cpu")
    if METHODS[config.method].is_classifier:
        _refuse_other_head(weights, config)
        # One that wrote has no head of scores, which begins as it is.
        weights = get_peft_model_state_dict(model, save_embedding_layers=False) | weights
    try:
        left = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:  # other shapes
        raise _not_fitting(config, str(error).strip().splitlines()[-1].strip()) from error
    # Whatever of the adapter finds no place would be lost in silence.
    if left.unexpected_keys:
        raise _not_fitting(config, f"the model has no {left.unexpected_keys[0]}")
    if any(ROWS in name for name in weights):
        table = without_adapters(model).get_input_embeddings()
        path = next(path for path, layer in model.named_modules() if layer is table)
        if not any(name.startswith(f"{path}.") and ROWS not in name for name in weights):
            save_rows_alone(model)


def _refuse_other_head(weights: Mapping[str, Tensor], config: TrainingConfig) -> None:
    """Refuse a head that gives another number of scores.

    Raises:
        ConfigError: naming both numbers.
    """
    wanted = len(config.labels or "1")
    for name, tensor in weights.items():
        layer, _, kind = name.rpartition(".")
        # Of a head of several layers the last gives the scores.
        is_head = kind == "weight" and layer.endswith((*HEADS, "classifier.out_proj"))
        if is_head and len(tensor) != wanted:
            raise ConfigError(
                f"training.adapter: {config.adapter} gives {len(tensor)} scores, and "
                f"{config.method} needs {wanted} here.",
                "Name one that was trained on the same classes, or start a new adapter.",
            )


def brings_tokenizer(config: TrainingConfig) -> bool:
    """Whether the adapter to go on with has a tokenizer beside it, with which it was trained."""
    if config.adapter is None:
        return False
    adapter = str(config.adapter)
    folder = Path(adapter).expanduser()
    if folder.is_dir():
        return (folder / TOKENIZER).is_file()
    from peft.utils.other import check_file_exists_on_hf_hub

    return bool(check_file_exists_on_hf_hub(adapter, TOKENIZER))


def _not_fitting(config: TrainingConfig, why: str) -> ConfigError:
    return ConfigError(
        f"training.adapter: {config.adapter} does not fit {config.model}: {why}",
        "Name the model that it was trained on as training.model.",
    )
