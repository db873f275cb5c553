"""LoRA's linear layers in fewer passes over memory: the same numbers as PEFT's, but for rounding.

PEFT computes y = x Wᵀ + (x Aᵀ Bᵀ) · s in five operations, of which three do nothing but walk over
tensors as wide as the layer; so does the way back. Here the matrix products add up by themselves,
and s is multiplied where a tensor is r wide.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def fuse(model: nn.Module) -> None:
    """Make the LoRA layers of a model compute this way wherever the result is the same.

    Layers of few bits and those of other variants stay as they are.
    """
    for module in model.modules():
        # type(), not isinstance: subclasses, such as quantised layers, compute something else.
        if type(module) is lora.Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = FusedLinear


class FusedLinear(lora.Linear):  # type: ignore[misc] # PEFT is not checked
    """PEFT's layer, which decides at every call whether it can take the short way."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return y of shape (…, out) for x of shape (…, in)."""
        if args or kwargs or not self._is_plain(x):
            # Decided at every call, since dropout, merging and adapters change between calls.
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return] # PEFT is not checked
        [adapter] = self.active_adapters
        a, b = self.lora_A[adapter].weight, self.lora_B[adapter].weight
        base, scaling = self.base_layer, self.scaling[adapter]
        rows = x.reshape(-1, x.shape[-1])
        y = _Fused.apply(rows, base.weight, base.bias, a, b, scaling)  # type: ignore[no-untyped-call] # torch's
        # Here and not in the function: what a model changes in place must be no view of its making.
        return y.view(*x.shape[:-1], y.shape[-1])  # type: ignore[no-any-return] # a tensor

    def _is_plain(self, x: Tensor) -> bool:
        """Whether one adapter without dropout, DoRA or biases is added, in one precision."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        [adapter] = self.active_adapters
        if adapter not in self.lora_A or adapter in self.lora_variant:
            return False
        a, b, base = self.lora_A[adapter], self.lora_B[adapter], self.base_layer
        is_dropping = self.training and not isinstance(self.lora_dropout[adapter], nn.Identity)
        return (
            not is_dropping
            and b.bias is None
            and not any(parameter.requires_grad for parameter in base.parameters())
            and x.dtype == base.weight.dtype == a.weight.dtype == b.weight.dtype
            and not torch.is_autocast_enabled(x.device.type)
        )


class _Fused(torch.autograd.Function):
    """x Wᵀ + bias + s (x Aᵀ) Bᵀ for rows x, with gradients for x, A of shape (r, in) and B of shape (out, r)."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, s: float
    ) -> Tensor:
        # Scaled here, where the tensor has r columns, and in place: it is ours alone.
        low = (rows @ a.t()).mul_(s)
        # beta = 1 of addmm_ adds the product while it is written: no second pass over y.
        y = nn.functional.linear(rows, weight, bias).addmm_(low, b.t())
        ctx.save_for_backward(rows, weight, a, b, low)
        ctx.scaling = s
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, low = ctx.saved_tensors
        of_rows, _, _, of_a, of_b, _ = ctx.needs_input_grad
        of_low = (gradient @ b).mul_(ctx.scaling)
        return (
            (gradient @ weight).addmm_(of_low, a) if of_rows else None,
            # The weight and the bias are frozen; see `_is_plain`.
            *(None, None),
            of_low.t() @ rows if of_a else None,
            gradient.t() @ low if of_b else None,
            None,
        )
