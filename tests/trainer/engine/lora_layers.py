"""A small model with PEFT's adapters; this imports torch."""

from __future__ import annotations

from typing import Any

import peft
import torch
from torch import Tensor, nn


class Layers(nn.Module):
    """Two layers, one with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.second = nn.Linear(20, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return shape (…, 8) for (…, 12)."""
        return self.second(torch.relu(self.first(x)))  # type: ignore[no-any-return] # torch's


def adapted(dtype: torch.dtype = torch.float32, **settings: Any) -> nn.Module:
    """Return it with adapters that have learned something."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["first", "second"], **settings)
    model = peft.get_peft_model(Layers(), config).to(dtype)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    return model  # type: ignore[no-any-return] # PEFT is not checked
