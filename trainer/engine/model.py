"""Load tokenizer and model, and put adapters on."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.config.chat_templates import template_text
from trainer.config.methods import METHODS, SEEING_MODEL, TEXT_MODEL
from trainer.config.model_files import check_model_files, check_writes
from trainer.contract.errors import ConfigError, ModelNotFound
from trainer.engine.adapters import add_adapters
from trainer.engine.arguments import precision
from trainer.engine.attention import choose_attention
from trainer.engine.going_on import brings_tokenizer, load_adapter
from trainer.engine.loading import loaded, loaded_adapter
from trainer.engine.masters import as_masters
from trainer.engine.quantization import keep_differentiable, loading_options
from trainer.engine.vocabulary import Vocabulary, extend, widen

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(config: TrainingConfig) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer; without a padding token the end-of-text token pads."""
    return load_vocabulary(config).tokenizer


def load_vocabulary(config: TrainingConfig) -> Vocabulary:
    """Load the tokenizer with the job's new tokens; that of an adapter comes before the model's.

    Raises:
        ModelNotFound: it cannot be loaded.
        ConfigError: it is slow, or does not take a token.
    """
    from transformers import AutoTokenizer

    check_model_files(config.model)
    if brings_tokenizer(config):
        tokenizer = loaded_adapter(AutoTokenizer.from_pretrained, config)
    else:
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
    return extend(tokenizer, config.new_tokens)


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
        if not method.is_classifier:
            check_writes(config.model, model.config.architectures or ())
            _refuse_lacking(config, info["missing_keys"])
        fresh = frozenset(name.rpartition(".")[0] for name in info["missing_keys"])
        keep_differentiable(model)
    choose_attention(model, config.attn_implementation)
    if config.peft is None and not method.is_classifier:
        freeze_beside_text(model)
    new_tokens = give_rows(model, config)
    if config.peft is not None:
        fresh = fresh if method.is_classifier else frozenset()
        model = add_adapters(model, config, new_tokens, fresh)
        # Answers are generated outside of autocast, which the CPU has none of.
        autocasts = torch.cuda.is_available() and not method.generates
        as_masters(model, config, autocasts=autocasts)
        if config.adapter is not None:  # now, that nothing of it is rounded
            load_adapter(model, config)
    return model


def _refuse_lacking(config: TrainingConfig, missing: Collection[str]) -> None:
    """Refuse a model of which transformers would make up weights, and only say so among its warnings.

    Raises:
        ModelNotFound: naming one of them.
    """
    if missing:
        count = f"{len(missing):,} weights" if len(missing) > 1 else "a weight"
        raise ModelNotFound(
            f"training.model: the files of {config.model} lack {count}, such as {min(missing)}, which "
            "would be random.",
            "Name a model that is whole and writes text, which encoders and classifiers do not; or "
            "train it from its config alone (init: random).",
        )


def give_rows(model: PreTrainedModel, config: TrainingConfig) -> list[int]:
    """Give the model rows for tokens that the job or its adapter adds; return the ids of the job's.

    Raises:
        ConfigError: see `widen`.
    """
    if not config.new_tokens and config.adapter is None:
        return []
    vocabulary = load_vocabulary(config)
    widen(model, vocabulary, config)
    return vocabulary.named


def parameters(model: PreTrainedModel) -> tuple[int, int]:
    """Return the number of parameters that are trained, and of all."""
    if hasattr(model, "get_nb_trainable_parameters"):  # PEFT unpacks weights of few bits
        trained, total = model.get_nb_trainable_parameters()
        return int(trained), int(total)
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, is_trained in sizes if is_trained), sum(n for n, _ in sizes)
