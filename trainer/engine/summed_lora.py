"""Adapters added to a copy of their weights while answers are written: one product instead of three.

A layer is then called once a token with a few rows, so what costs is not the arithmetic but the number
of calls. In float32 the sum is the same but for rounding. In 16 bits it would lose what adapters learn,
and on a GPU the copy would take memory that is dear; there each layer computes as it always does.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from peft.tuners import lora
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator


MOST = 2**30
"""Bytes of all copies. In larger models the arithmetic costs more than the calls."""


@contextmanager
def summed(model: nn.Module) -> Iterator[None]:
    """Let the LoRA layers of a model compute with the sums, wherever the result is the same."""
    layers: list[Any] = [layer for layer in model.modules() if is_plain(layer)]
    if sum(layer.base_layer.weight.nbytes for layer in layers) > MOST:
        layers = []
    with torch.no_grad():
        for layer in layers:
            bias = layer.base_layer.bias
            # Beside the weights, which could not be had back exactly from a sum.
            layer.forward = partial(nn.functional.linear, weight=_sum(layer), bias=bias)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def is_plain(layer: Any) -> bool:
    """Whether a layer adds one adapter without dropout, DoRA or biases, in float32 on a CPU."""
    # A subclass that is not PEFT's plain one, such as of few bits, computes something else.
    if not isinstance(layer, lora.Linear) or type(layer.base_layer) is not nn.Linear:
        return False
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return False
    [name] = layer.active_adapters
    if name not in layer.lora_A or name in layer.lora_variant:
        return False
    a, b, weight = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.base_layer.weight
    is_dropping = layer.training and not isinstance(layer.lora_dropout[name], nn.Identity)
    is_exact = {each.dtype for each in (a, b, weight)} == {torch.float32}
    return (
        is_exact
        and weight.device.type == "cpu"
        and layer.lora_B[name].bias is None
        and not is_dropping
    )


def _sum(layer: Any) -> torch.Tensor:
    [name] = layer.active_adapters
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return torch.addmm(layer.base_layer.weight, b, a, alpha=layer.scaling[name])
