"""Training few parameters instead of all."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trainer.config.settings import Settings


class LoraConfig(Settings):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), trained by PEFT."""

    r: int = Field(default=16, ge=1, le=1024)
    """Rank of the adapters."""
    lora_alpha: int = Field(default=32, ge=1)
    """Scale: the adapter's output is multiplied by lora_alpha / r."""
    lora_dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout before the adapter."""
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Which layers get an adapter: all-linear, or names such as [q_proj, v_proj]."""
    modules_to_save: list[str] | None = None
    """Layers trained in full and saved with the adapter, such as [embed_tokens]."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases are trained."""
