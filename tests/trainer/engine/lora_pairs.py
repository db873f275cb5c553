"""A small model with PEFT's adapters, as PEFT computes it and fused; this imports torch."""

from __future__ import annotations

import copy
from typing import Any

import peft
import torch
from torch import Tensor, nn

from trainer.engine.fused_lora import fuse


class Layers(nn.Module):
    """Two layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.second = nn.Linear(20, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (…, 8) for (…, 12)."""
        return self.second(torch.relu(self.first(x)))  # type: ignore[no-any-return] # torch's


def pair(dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[nn.Module, nn.Module]:
    """Return a model with adapters as PEFT has it, and the same one fused."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["first", "second"], **settings)
    plain = peft.get_peft_model(Layers(), config).to(dtype)
    for name, parameter in plain.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    fused = copy.deepcopy(plain)
    fuse(fused)
    return plain, fused


def numbers(model: nn.Module, x: Tensor, *, autocast: bool = False) -> list[Tensor]:
    """Return the answer, and the gradients of x and of all that is trained."""
    x = x.clone().requires_grad_()
    torch.manual_seed(2)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = model(x)
    y.float().square().sum().backward()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [y, *(tensor.grad for tensor in (x, *trained) if tensor.grad is not None)]
