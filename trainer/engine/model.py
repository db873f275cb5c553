"""Load tokenizer and model, and put adapters on."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import LoraConfig, PromptTuningConfig, TrainingConfig
from trainer.config.adapter_files import as_settings, check_adapter
from trainer.config.chat_templates import template_text
from trainer.config.methods import METHODS, SEEING_MODEL, TEXT_MODEL
from trainer.config.model_code import untrusted
from trainer.config.model_files import check_model_files
from trainer.contract.errors import ConfigError, ModelNotFound
from trainer.engine.arguments import precision
from trainer.engine.attention import choose_attention
from trainer.engine.deprecations import deprecations_allowed
from trainer.engine.quantization import keep_differentiable, loading_options
from trainer.engine.targets import beside_text, check_targets, unfit_targets

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

UNLOADED = (
    *(OSError, ValueError, KeyError, ImportError, TypeError),
    *(AttributeError, NotImplementedError, AssertionError),
)
"""What transformers raises for a model that it cannot build, or not without another package."""


HEADS = ("score", "classifier")


def load_tokenizer(config: TrainingConfig) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer; without a padding token the end-of-text token pads."""
    from transformers import AutoTokenizer

    check_model_files(config.model)
    tokenizer = loaded(AutoTokenizer.from_pretrained, config)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"training.model: {config.model} has no fast tokenizer (tokenizer.json).",
            "Save it once with transformers' convert_slow_tokenizer, or choose another model.",
        )
    if config.chat_template is not None:
        tokenizer.chat_template = template_text(config.chat_template)
    # Padding is masked out of the loss and the attention, so which token it is does not matter.
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_architecture(config: TrainingConfig) -> PretrainedConfig:
    """Load the model's config alone.

    Raises:
        ModelNotFound: there is no such model.
    """
    from transformers import AutoConfig

    check_model_files(config.model)
    options = classifier_options(config)
    architecture: PretrainedConfig = loaded(AutoConfig.from_pretrained, config, **options)
    return architecture


def class_of(config: TrainingConfig) -> Any:
    """Return the class of transformers that loads the job's model.

    Some models that see pictures are no causal ones to transformers, though their language part is.
    """
    import transformers
    from transformers.models.auto import modeling_auto

    name = METHODS[config.method].auto_class(adapters=False)
    if name == TEXT_MODEL:
        kind = load_architecture(config).model_type
        sees = modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        if kind in sees and kind not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            name = SEEING_MODEL
    return getattr(transformers, name)


def freeze_beside_text(model: PreTrainedModel) -> None:
    """Freeze what no text goes through, such as a vision tower: it has no gradient."""
    if model.config.get_text_config() is model.config:
        return
    # A model says that it has such parts by having a decoder apart from them.
    of_text = {id(p) for part in _text_parts(model) for p in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in of_text:
            parameter.requires_grad = False


def _text_parts(model: PreTrainedModel) -> Iterator[Any]:
    yield model.get_decoder()
    if (head := model.get_output_embeddings()) is not None:
        yield head


def classifier_options(config: TrainingConfig) -> dict[str, Any]:
    """Return what a model's config takes to have the head of a classifier; nothing for others."""
    method = METHODS[config.method]
    if not method.is_classifier:
        return {}
    if not method.has_classes:
        return {"num_labels": 1}
    if config.labels is None:
        return {}
    kind = "multi_label_classification" if config.several_labels else "single_label_classification"
    return {
        "id2label": dict(enumerate(config.labels)),
        "label2id": {label: i for i, label in enumerate(config.labels)},
        "problem_type": kind,
    }


def load_model(config: TrainingConfig) -> PreTrainedModel:
    """Load or initialise the model, with adapters where the job asks for them.

    Weights that are trained are float32 (masters of a mixed-precision run); frozen weights take
    the precision of the run, or few bits. It is on the CPU, but where it is quantised.
    """
    import torch
    from transformers import set_seed

    set_seed(config.seed)  # adapters and random weights are the same for the same seed
    frozen = config.peft is not None
    # Weights in 16 bits lose most updates of a usual size to rounding; see `masters_kept`.
    dtype = getattr(torch, precision(config)) if frozen else torch.float32
    method = METHODS[config.method]
    kind = class_of(config)
    options, fresh = classifier_options(config), frozenset[str]()
    if config.init == "random":
        architecture, trusts = load_architecture(config), config.trust_remote_code
        build = partial(kind.from_config, architecture, trust_remote_code=trusts)
        model = loaded(lambda *_, **given: build(dtype=given["dtype"]), config, dtype=dtype)
    else:
        options |= loading_options(config)
        load = partial(kind.from_pretrained, output_loading_info=True)
        model, info = loaded(load, config, dtype=dtype, **options)
        fresh = frozenset(name.rpartition(".")[0] for name in info["missing_keys"])
        keep_differentiable(model)
    choose_attention(model, config.attn_implementation)
    if config.peft is None and not method.is_classifier:
        freeze_beside_text(model)
    if config.peft is not None:
        model = add_adapters(model, config, fresh if method.is_classifier else ())
        if config.adapter is not None:
            load_adapter(model, config)
        # Without autocast, as on a CPU or where answers are generated, precisions must not be
        # mixed.
        if torch.cuda.is_available() and not method.generates:
            as_masters(model)
        # FSDP and DeepSpeed gather weights when a layer is called; a compiler fuses by itself.
        if config.parallelism == "ddp" and not config.arguments.get("torch_compile"):
            from trainer.engine.fused_lora import fuse

            fuse(model)
    return model


def as_masters(model: PreTrainedModel) -> None:
    """Hold what is trained in float32: PEFT does so with adapters, not with `modules_to_save`."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def add_adapters(
    model: PreTrainedModel, config: TrainingConfig, fresh: Collection[str] = ()
) -> PreTrainedModel:
    """Wrap the model by PEFT; only adapters (and `modules_to_save`) are trained.

    Args:
        model: without adapters.
        config: the job's settings.
        fresh: modules with random weights, which the model's files lack: trained in full and saved.

    Raises:
        ConfigError: naming the layers that the model lacks, or that cannot be trained.
    """
    import peft

    if isinstance(config.peft, LoraConfig):
        _check_modules_to_save(model, config.peft.modules_to_save or [])
        if isinstance(config.peft.target_modules, list):
            check_targets(model, config.peft.target_modules)
    settings = _peft_config(config)
    # PEFT adds the usual heads, `score` and `classifier`, by itself.
    if others := sorted(name for name in fresh if name.rpartition(".")[2] not in HEADS):
        settings.modules_to_save = [*(settings.modules_to_save or []), *others]
    if isinstance(config.peft, LoraConfig) and config.adapter is None:
        unfit = unfit_targets(model) if settings.target_modules == "all-linear" else ()
        left_out = {*(settings.exclude_modules or ()), *unfit, *beside_text(model)}
        settings.exclude_modules = sorted(left_out) or None
    try:
        with deprecations_allowed(), warnings.catch_warnings():
            # `_check_patterns` refuses what PEFT only warns of.
            warnings.filterwarnings("ignore", ".* did not match any targeted module")
            adapted: PreTrainedModel = peft.get_peft_model(model, settings)
    # PEFT raises it for target_modules that match nothing, naming them in the first line.
    except ValueError as error:
        raise ConfigError(
            f"training.peft: {str(error).splitlines()[0]}",
            "Use target_modules: all-linear, or names of layers that this model has.",
        ) from error
    if isinstance(config.peft, LoraConfig) and config.adapter is None:
        _check_patterns(adapted, config.peft)
    return adapted


def _check_patterns(model: PreTrainedModel, settings: LoraConfig) -> None:
    """Refuse a choice of layers that matches none: PEFT passes over it in silence."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    prefix = "base_model.model."
    adapted = [
        path.removeprefix(prefix)
        for path, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    ]
    for name in ("rank_pattern", "alpha_pattern"):
        for key in getattr(settings, name):
            # As PEFT matches: the end of a layer's path.
            if not any(re.match(rf"(.*\.)?({key})$", path) for path in adapted):
                raise ConfigError(
                    f"training.peft.{name}: {key!r} matches no layer that has an adapter.",
                    f"Layers with adapters are, for instance, {', '.join(adapted[:3])}.",
                )
    for number in settings.layers_to_transform or []:
        if not any(f".{number}." in f".{path}." for path in adapted):
            raise ConfigError(
                f"training.peft.layers_to_transform: the model has no block {number} with layers "
                "that adapters go to.",
                "Blocks are numbered from 0.",
            )


def load_adapter_settings(config: TrainingConfig) -> LoraConfig:
    """Return the settings of the adapter to go on with, as ours.

    Raises:
        ModelNotFound: it cannot be loaded.
        ConfigError: it is not one that can be trained further.
    """
    return as_settings(_own_settings(config).to_dict())


def _own_settings(config: TrainingConfig) -> PeftConfig:
    import peft

    check_adapter(str(config.adapter), config.model)
    settings: PeftConfig = loaded_adapter(peft.PeftConfig.from_pretrained, config)
    wanted = "SEQ_CLS" if METHODS[config.method].is_classifier else "CAUSAL_LM"
    if settings.peft_type != "LORA" or settings.task_type not in {wanted, None}:
        raise ConfigError(
            f"training.adapter: {config.adapter} is an adapter of type {settings.peft_type} for "
            f"{settings.task_type}; {config.method} needs LORA for {wanted}.",
            "Start a new adapter, or merge that one into its base model.",
        )
    settings.inference_mode = False
    return settings


def load_adapter(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Put the weights of the adapter to go on with into those of a model.

    Raises:
        ModelNotFound: it cannot be loaded.
        ConfigError: it does not fit the model.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    weights = loaded_adapter(load_peft_weights, config, device="cpu")
    try:
        left = set_peft_model_state_dict(model, weights)
    except RuntimeError as error:  # other shapes
        raise _not_fitting(config, str(error).strip().splitlines()[-1].strip()) from error
    # Whatever of the adapter finds no place would be lost in silence.
    if left.unexpected_keys:
        raise _not_fitting(config, f"the model has no {left.unexpected_keys[0]}")


def _not_fitting(config: TrainingConfig, why: str) -> ConfigError:
    return ConfigError(
        f"training.adapter: {config.adapter} does not fit {config.model}: {why}",
        "Name the model that it was trained on as training.model.",
    )


def loaded_adapter(load: Any, config: TrainingConfig, **options: Any) -> Any:
    """Return what `load` makes of the adapter to go on with.

    Raises:
        ModelNotFound: it cannot be loaded; the reason is the library's own.
    """
    return _loaded(load, "training.adapter", str(config.adapter), **options)


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
        return _own_settings(config)
    settings = config.peft
    assert settings is not None  # noqa: S101 - for the type checker: callers have looked
    task = "SEQ_CLS" if METHODS[config.method].is_classifier else "CAUSAL_LM"
    given = settings.model_dump() | {"peft_type": settings.peft_type.upper(), "task_type": task}
    if isinstance(settings, PromptTuningConfig):
        given["prompt_tuning_init"] = settings.prompt_tuning_init.upper()
        if settings.prompt_tuning_init == "text":
            given["tokenizer_name_or_path"] = _place(config.model)
    return peft.get_peft_config(given)


def _place(named: str) -> str:
    """Return the folder of this computer that a name means, or the name, which is the Hub's."""
    path = Path(named).expanduser()
    return str(path) if path.exists() else named


def code_options(config: TrainingConfig) -> dict[str, Any]:
    """Return whether code of the model's own may run, and which revision is meant."""
    here = Path(config.model).expanduser().exists()
    named = {} if here or config.revision is None else {"revision": config.revision}
    return {"trust_remote_code": config.trust_remote_code, **named}


def loaded(load: Any, config: TrainingConfig, **options: Any) -> Any:
    """Return what `load`, a `from_pretrained`, makes of the job's model.

    Raises:
        ModelNotFound: it cannot be loaded; the reason is transformers' own.
        ConfigError: it is made by code of its own, which the job does not trust.
    """
    try:
        return _loaded(load, "training.model", config.model, **options, **code_options(config))
    except ModelNotFound as error:
        # What transformers raises of a model whose code it may not run; it names the argument.
        if "trust_remote_code" in str(error.__cause__) and not config.trust_remote_code:
            raise untrusted(config) from error
        raise


def _loaded(load: Any, field: str, named: str, **options: Any) -> Any:
    try:
        return load(_place(named), **options)
    except UNLOADED as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise ModelNotFound(f"{field}: {named} cannot be loaded: {reason}") from error


def parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Return the number of parameters that are trained, and of all."""
    if hasattr(model, "get_nb_trainable_parameters"):  # PEFT unpacks weights of few bits
        trained, total = model.get_nb_trainable_parameters()
        return int(trained), int(total)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, is_trained in sizes if is_trained), sum(n for n, _ in sizes)
