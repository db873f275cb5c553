"""Put adapters on a model: new ones, or such as `trainer.engine.going_on` has settings and weights of."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from trainer.config import PromptTuningConfig, TrainingConfig
from trainer.config.adapter_files import SCORES, WRITES
from trainer.config.methods import METHODS
from trainer.config.peft import ALL_LINEAR
from trainer.contract.errors import ConfigError
from trainer.engine.attention import without_adapters
from trainer.engine.deprecations import deprecations_allowed
from trainer.engine.going_on import HEADS, own_settings
from trainer.engine.loading import place_of
from trainer.engine.targets import (
    beside_text,
    check_targets,
    named,
    not_adapted,
    refuse_lost,
    unfit_targets,
)
from trainer.engine.vocabulary import (
    check_rows,
    check_rows_are_trained,
    is_tied,
    rows_to_train,
    save_rows_alone,
    tables_of,
)

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

REFUSED_HERE = (
    ".* did not match any targeted module",
    "Invalid `oft_block_size`",
    "You have requested `ensure_weight_tying`",
    "Model has `tie_word_embeddings=True`",
    "fan_in_fan_out is set to",
    "The PEFT config's `base_model_name_or_path` was renamed",
)
"""What PEFT warns of, and is refused or said here, or of no account."""


def add_adapters(
    model: PreTrainedModel,
    config: TrainingConfig,
    new_tokens: Sequence[int] = (),
    fresh: Collection[str] = (),
) -> PreTrainedModel:
    """Wrap the model by PEFT; only adapters, `modules_to_save` and rows of tokens are trained.

    Args:
        model: with a row for each token.
        config: the job's settings.
        new_tokens: the ids of the tokens whose rows are trained.
        fresh: modules with random weights, which the model's files lack: trained in full and saved.

    Raises:
        ConfigError: naming the layers that the model lacks, or that cannot be trained.
    """
    _check_layers(model, config)
    settings = _peft_config(config)
    # PEFT adds the usual heads, `score` and `classifier`, by itself.
    if others := sorted(name for name in fresh if name.rpartition(".")[2] not in HEADS):
        settings.modules_to_save = [*dict.fromkeys([*(settings.modules_to_save or []), *others])]
    if config.adapter is None and not settings.is_prompt_learning:
        unfit = unfit_targets(model) if settings.target_modules == ALL_LINEAR else {}
        _leave_out(settings, [*unfit, *beside_text(model)], model)
    if new_tokens:
        settings.trainable_token_indices = rows_to_train(model, new_tokens)
    trains_rows = bool(getattr(settings, "trainable_token_indices", None))
    if trains_rows:
        check_rows(model, config)
    saved = getattr(settings, "modules_to_save", None) or ()
    # One that is gone on with has them together or apart, as it was trained.
    shared = _names_shared(model, saved) if config.adapter is None else []
    if shared and hasattr(settings, "ensure_weight_tying"):
        settings.ensure_weight_tying = True
    adapted = _adapted(model, settings, config)
    if config.adapter is None:
        _check_patterns(adapted, config)
    if shared and not is_tied(without_adapters(adapted)):
        raise _parted(shared, config)
    if trains_rows:
        check_rows_are_trained(adapted, config)
    if new_tokens:
        save_rows_alone(adapted)
    refuse_lost(adapted)
    return adapted


def _adapted(
    model: PreTrainedModel, settings: PeftConfig, config: TrainingConfig
) -> PreTrainedModel:
    import peft

    try:
        with deprecations_allowed(), warnings.catch_warnings():
            for ignored in REFUSED_HERE:
                warnings.filterwarnings("ignore", ignored)
            adapted: PreTrainedModel = peft.get_peft_model(model, settings)
            if inputs := getattr(settings, "feedforward_modules", None):
                # By the names that PEFT has made of all-linear: it loads no others again.
                targets = settings.target_modules
                settings.feedforward_modules = {t for t in targets if named(t, [*inputs])}
    # PEFT raises it for target_modules that match nothing, and for layers that it does not adapt.
    except (ValueError, TypeError) as error:
        raise not_adapted(model, config, error) from error
    return adapted


def _check_layers(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Refuse names of layers that mean none, or such as cannot carry what is asked for."""
    peft = config.peft
    # One that is gone on with may have been made for more than one model.
    if peft is None or peft.is_soft_prompt or config.adapter is not None:
        return
    _refuse_rows_twice(model, config)
    _check_modules_to_save(model, getattr(peft, "modules_to_save", None) or [])
    for field in ("exclude_modules", "feedforward_modules"):
        _check_named(model, field, getattr(peft, field, None) or [])
    targets = getattr(peft, "target_modules", ALL_LINEAR)
    if targets != ALL_LINEAR:
        _check_named(model, "target_modules", targets if isinstance(targets, list) else [])
        check_targets(model, targets)
        _refuse_shared_target(model, targets, config)


def _refuse_rows_twice(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Refuse to train rows of new tokens in a layer that is trained as a whole, or adapted, too."""
    paths = {path: layer for path, layer in model.named_modules() if config.new_tokens}
    for field in ("modules_to_save", "target_modules"):
        wanted = getattr(config.peft, field, None) or []
        for path, layer in paths.items():
            name = named(path, wanted) if wanted != ALL_LINEAR else ""
            if name and any(layer is table for table in tables_of(model)):
                raise ConfigError(
                    f"training.peft.{field}: {name} of {config.model} holds the rows of "
                    "training.new_tokens, which are trained by themselves.",
                    f"Leave {name} out; or set peft: null, which trains all rows.",
                )


def _leave_out(settings: PeftConfig, unfit: list[str], model: PreTrainedModel) -> None:
    """Leave layers without adapters, beside those that the job excludes."""
    from torch import nn

    if hasattr(settings, "exclude_modules"):
        settings.exclude_modules = sorted({*(settings.exclude_modules or ()), *unfit}) or None
    # VeRA has but names of those that it adapts.
    elif unfit and settings.target_modules == ALL_LINEAR:
        settings.target_modules = {
            path
            for path, layer in model.named_modules()
            if isinstance(layer, nn.Linear) and layer is not model.get_output_embeddings()
            if not path.endswith(tuple(unfit))
        }


def _names_shared(model: PreTrainedModel, wanted: Sequence[str]) -> list[str]:
    """Return those of the names that mean the embedding or the head, where these are tied."""
    if not is_tied(model):
        return []
    shared = tables_of(model)
    paths = [path for path, layer in model.named_modules() if any(layer is one for one in shared)]
    return [name for name in wanted if any(path.endswith(name) for path in paths)]


def _refuse_shared_target(
    model: PreTrainedModel, wanted: str | list[str], config: TrainingConfig
) -> None:
    """Refuse adapters on the head, and on an embedding with its weights."""
    table, head = tables_of(model)
    for path, layer in model.named_modules():
        name = named(path, wanted)
        if name and layer is head:
            raise ConfigError(
                f"training.peft.target_modules: an adapter on {name} would never be trained, for TRL "
                "computes with its weight directly.",
                f"Name {name} in modules_to_save instead.",
            )
        # Merged, the adapter would be on both.
        if name and layer is table and is_tied(model):
            raise ConfigError(
                f"training.peft.target_modules: {name} of {config.model} shares its weights with "
                "the head, which would not have the adapter, until it is merged.",
                "For new tokens name them in training.new_tokens; or leave it out.",
            )


def _parted(names: list[str], config: TrainingConfig) -> ConfigError:
    return ConfigError(
        f"training.peft.modules_to_save: the embedding and the head of {config.model} share their "
        f"weights, and PEFT would train {' and '.join(names)} apart.",
        "For new tokens name them in training.new_tokens, which trains their rows alone; to train "
        "the whole embedding set peft: null.",
    )


def _check_named(model: PreTrainedModel, field: str, names: list[str]) -> None:
    """Refuse a name that means no layer: PEFT passes over it in silence."""
    paths = [path for path, _ in model.named_modules()]
    for name in names:
        if not any(named(path, [name]) for path in paths):
            raise ConfigError(
                f"training.peft.{field}: the model has no layer {name!r}.",
                "Name layers by the end of their names, such as down_proj or 0.mlp.down_proj.",
            )


def _check_patterns(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Refuse a choice of layers that matches none: PEFT passes over it in silence."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    prefix = "base_model.model."
    adapted = {
        path.removeprefix(prefix): layer
        for path, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    }
    for name in ("rank_pattern", "alpha_pattern"):
        for key in getattr(config.peft, name, None) or ():
            # As PEFT matches: the end of a layer's path.
            if not any(re.match(rf"(.*\.)?({key})$", path) for path in adapted):
                raise ConfigError(
                    f"training.peft.{name}: {key!r} matches no layer that has an adapter.",
                    f"Layers with adapters are, for instance, {', '.join([*adapted][:3])}.",
                )
    for number in getattr(config.peft, "layers_to_transform", None) or ():
        if not any(f".{number}." in f".{path}." for path in adapted):
            raise ConfigError(
                f"training.peft.layers_to_transform: the model has no block {number} with layers "
                "that adapters go to.",
                "Blocks are numbered from 0.",
            )
    for path, layer in adapted.items():
        wanted = getattr(config.peft, "oft_block_size", None)
        made = getattr(layer, "oft_block_size", {}).get("default", wanted)
        if made != wanted:
            raise ConfigError(
                f"training.peft.oft_block_size = {wanted} does not divide the {layer.in_features:,} "
                f"inputs of {path}.",
                f"Set a size that divides those of all layers, such as {made}.",
            )


def _check_modules_to_save(model: PreTrainedModel, wanted: list[str]) -> None:
    """Refuse layers that PEFT would pass over in silence, and weights that have no gradient."""
    layers = dict(model.named_modules())
    for name in wanted:
        found = [layer for path, layer in layers.items() if path.endswith(name)]  # as PEFT does
        if not found:
            raise ConfigError(
                f"training.peft.modules_to_save: the model has no layer {name!r}.",
                "Name layers by the end of their names, such as embed_tokens, lm_head or norm.",
            )
        if not all(p.is_floating_point() for layer in found for p in layer.parameters()):
            raise ConfigError(
                f"training.peft.modules_to_save: {name} is quantised, and cannot be trained in full.",
                f"Name {name} and lm_head in training.quantization.llm_int8_skip_modules, or leave "
                "it to the adapter.",
            )


def _peft_config(config: TrainingConfig) -> PeftConfig:
    """Return the settings as PEFT's own, which says its words in capitals."""
    import peft

    if config.adapter is not None:
        return own_settings(config)
    settings = config.peft
    assert settings is not None  # noqa: S101 - for the type checker: callers have looked
    task = SCORES if METHODS[config.method].is_classifier else WRITES
    given = settings.model_dump() | {"peft_type": settings.peft_type.upper(), "task_type": task}
    if isinstance(settings, PromptTuningConfig):
        given["prompt_tuning_init"] = settings.prompt_tuning_init.upper()
        if settings.prompt_tuning_init == "text":
            given["tokenizer_name_or_path"] = place_of(config.model)
    return peft.get_peft_config(given)
