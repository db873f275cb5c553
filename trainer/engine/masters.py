"""What is trained is held in float32: in 16 bits most steps of a usual size are rounded away.

PEFT holds adapters so. Whole layers that are trained beside them (`modules_to_save`) have the
precision of the model, which computes with them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.engine.attention import without_adapters

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel

BY_HEAD = ("dpo", "kto", "grpo", "rloo")
"""Methods of which TRL multiplies by the head's weights itself, instead of calling it."""


def as_masters(model: PreTrainedModel, config: TrainingConfig, *, autocasts: bool) -> None:
    """Hold what is trained in float32.

    Args:
        model: with adapters.
        config: the job's settings.
        autocasts: whether the training mixes precisions by itself; else each layer that is held in
            float32 computes in it, and takes and gives what the layers around it have.

    Raises:
        ConfigError: naming what cannot be held so.
    """
    if not autocasts:
        _refuse_mixed(model, config)
        hold_layers(model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def hold_layers(model: PreTrainedModel) -> None:
    """Hold layers that are trained in full, and those of a reference beside them, in float32."""
    from peft.utils.other import ModulesToSaveWrapper

    found = [
        (layer, dtype)
        for wrapper in model.modules()
        if isinstance(wrapper, ModulesToSaveWrapper)
        for layer in wrapper.modules_to_save.values()
        if (dtype := _half(layer)) is not None
    ]
    # After all were looked at: layers that share their weights change together.
    for layer, dtype in found:
        layer.float()
        layer.register_forward_pre_hook(_in_float32, with_kwargs=True)
        layer.register_forward_hook(partial(_rounded, dtype))


def _half(layer: nn.Module) -> torch.dtype | None:
    dtypes = {parameter.dtype for parameter in layer.parameters()}
    return next((dtype for dtype in dtypes if dtype.itemsize == 2), None)


def _in_float32(_: nn.Module, args: Any, kwargs: Any) -> Any:
    return _cast(args, "float32"), _cast(kwargs, "float32")


def _rounded(dtype: torch.dtype, _: nn.Module, __: Any, output: Any) -> Any:
    return _cast(output, str(dtype).rpartition(".")[2])


def _cast(values: Any, dtype: str) -> Any:
    import torch
    from torch.utils._pytree import tree_map

    def cast(leaf: Any) -> Any:
        is_real = isinstance(leaf, torch.Tensor) and leaf.is_floating_point()
        return leaf.to(getattr(torch, dtype)) if is_real else leaf

    return tree_map(cast, values)


def _refuse_mixed(model: PreTrainedModel, config: TrainingConfig) -> None:
    from peft.utils.other import ModulesToSaveWrapper

    # Trained in their place, within layers that are not.
    biases = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.dtype.itemsize == 2 and name.endswith(".bias")
        if ".modules_to_save." not in name
    ]
    if biases:
        raise ConfigError(
            "training.peft.bias: the model's biases are held in 16 bits here, in which most steps are "
            "rounded away.",
            "Set dtype: float32, or bias: none.",
        )
    head = without_adapters(model).get_output_embeddings()
    if config.method in BY_HEAD and isinstance(head, ModulesToSaveWrapper) and _half(head):
        raise ConfigError(
            f"training.peft.modules_to_save: {config.method} multiplies by the head's weights, which "
            "are held in 16 bits here, in which most steps are rounded away.",
            "Set dtype: float32, or leave the head and an embedding that is tied to it out.",
        )
