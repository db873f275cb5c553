"""Which settings go together of what is trained: adapters, new tokens, few bits, a reference."""

from __future__ import annotations

from trainer.config.methods import METHODS
from trainer.config.training_fields import TrainingFields

SOFT_PROMPT_METHODS = ("sft", "cpt")
"""Others compare answers, or generate them, by code that knows nothing of virtual tokens."""

SPLIT_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "sgd", "rmsprop")
"""Tried; others compute with plain tensors, or keep a state that cannot be put together."""


def check_weights(config: TrainingFields) -> None:
    """Apply every rule of this file.

    Raises:
        ValueError: one sentence with the field, its value and the remedy.
    """
    check_peft(config)
    check_reference(config)
    check_adapter(config)
    check_new_tokens(config)
    check_quantization(config)
    check_optimizer(config)


def check_peft(config: TrainingFields) -> None:
    """Refuse what a kind of adapter cannot do.

    Raises:
        ValueError: naming the field.
    """
    peft = config.peft
    if peft is None or not peft.is_soft_prompt:
        return
    if config.method not in SOFT_PROMPT_METHODS:
        raise ValueError(
            f"peft.peft_type: {peft.peft_type} works with {' and '.join(SOFT_PROMPT_METHODS)}, "
            f"not with {config.method}: set peft_type: lora"
        )
    for name in ("packing", "padding_free") if config.method == "sft" else ():
        if getattr(config, name):
            raise ValueError(
                f"{name}: with {peft.peft_type} the rows of one sequence cannot be kept apart: "
                f"set {name}: false"
            )
    if config.shares_weights:
        raise ValueError(
            f"parallelism: {config.parallelism} would leave a part of what {peft.peft_type} trains "
            "to each process, which PEFT saves from one: set parallelism: ddp"
        )
    if config.gradient_checkpointing is True and not peft.allows_gradient_checkpointing:
        raise ValueError(
            f"gradient_checkpointing drops what {peft.peft_type} trains: set it to false, or use "
            "another peft_type"
        )


def check_reference(config: TrainingFields) -> None:
    """Refuse what would train the reference along with the model, or move one that does not move.

    Raises:
        ValueError: naming the field.
    """
    if config.trainer != "builtin" or not METHODS[config.method].compares:
        return
    bias = getattr(config.peft, "bias", "none")
    # Not of grpo and rloo without a penalty: they have no reference.
    has_reference = config.beta != 0 and (config.method != "grpo" or config.beta is not None)
    if bias != "none" and has_reference:
        raise ValueError(
            f"peft.bias = {bias!r} trains biases of the model itself, which the reference of "
            f"{config.method} has too: set bias: none"
        )
    if not config.arguments.get("sync_ref_model"):
        return
    why = ""
    if config.peft is not None:
        why = "with adapters the reference is the base model itself: set peft: null"
    elif not has_reference:
        why = "without beta there is no reference: set beta"
    elif config.shares_weights:
        why = f"{config.parallelism} shares the reference out: set parallelism: ddp"
    if why:
        raise ValueError(f"arguments.sync_ref_model: {why}, or remove it")


def check_adapter(config: TrainingFields) -> None:
    """Refuse what contradicts going on with an adapter.

    Raises:
        ValueError: naming the field.
    """
    if config.adapter is None:
        return
    if config.trainer != "builtin":
        raise ValueError(f"adapter: trainer {config.trainer} starts its own: remove it")
    # A job that was written down again gives every field as it is by default; a person gives some.
    default = type(config).model_fields["peft"].get_default(call_default_factory=True)
    given = config.peft.model_fields_set if config.peft else set()
    if config.peft != default or (given and len(given) < len(type(default).model_fields)):
        raise ValueError("adapter: its own settings hold: leave peft out")


def check_new_tokens(config: TrainingFields) -> None:
    """Refuse new tokens where their embeddings would not be trained.

    Raises:
        ValueError: naming the field.
    """
    if not config.new_tokens:
        return
    if config.adapter is not None:
        raise ValueError(
            "new_tokens: an adapter that is gone on with has the tokens that it was trained with: "
            "merge it into its base model (merge: true), and name that as model"
        )
    peft = config.peft
    if peft is None:
        return
    if not peft.trains_rows:
        raise ValueError(
            f"new_tokens: peft_type {peft.peft_type} leaves the embeddings alone: set "
            "peft_type: lora, or peft: null"
        )
    if config.shares_weights:
        raise ValueError(
            f"new_tokens: {config.parallelism} would share out a table of which PEFT trains some "
            "rows: set parallelism: ddp, or peft: null"
        )


def check_quantization(config: TrainingFields) -> None:
    """Refuse to quantise weights that are to be trained, or cut in pieces.

    Raises:
        ValueError: naming the field.
    """
    if config.quantization and config.peft is None:
        raise ValueError(
            "quantization: weights of so few bits cannot be trained: set peft, such as {r: 16}, "
            "or leave quantization out"
        )
    if config.quantization and config.peft and not config.peft.on_few_bits:
        raise ValueError(
            f"quantization: PEFT puts no {config.peft.peft_type} on weights of few bits: set "
            "peft_type: lora, or leave quantization out"
        )
    if config.quantization and config.shares_weights:
        raise ValueError(
            f"quantization: {config.parallelism} would share out weights whose scales it does not "
            "know: set parallelism: ddp, or deepspeed with zero_stage: 2"
        )


def check_optimizer(config: TrainingFields) -> None:
    """Refuse an optimizer that does not know weights which are split across processes.

    Raises:
        ValueError: naming the field.
    """
    if config.shards and config.optim not in SPLIT_OPTIMIZERS:
        raise ValueError(
            f"optim = {config.optim!r} does not know weights that {config.parallelism} has split: set "
            f"optim: {SPLIT_OPTIMIZERS[0]}, or another of {', '.join(SPLIT_OPTIMIZERS[1:])}"
        )
