"""Frozen weights in few bits: under the names of transformers' BitsAndBytesConfig."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.config.settings import Settings


class QuantizationConfig(Settings):
    """The frozen weights of linear layers in 4 or 8 bits, by bitsandbytes."""

    load_in_4bit: bool = False
    """QLoRA (Dettmers et al. 2023, arXiv:2305.14314)."""
    load_in_8bit: bool = False
    """LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339)."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """How 4 bits are shared out. nf4: as fits weights that are normally distributed."""
    bnb_4bit_use_double_quant: bool = True
    """Quantise the scales too, which saves another 0.4 bits per weight."""
    bnb_4bit_compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What 4 bits are unpacked to for arithmetic. null: as `dtype` says."""
    llm_int8_threshold: float = Field(default=6.0, ge=0)
    """Of 8 bits: inputs above this are multiplied in half precision."""
    llm_int8_skip_modules: list[str] | None = None
    """Linear layers to leave as they are, such as [lm_head]. null: the output layer."""

    @property
    def bits(self) -> int:
        """Bits per weight."""
        return 4 if self.load_in_4bit else 8

    @model_validator(mode="after")
    def _one_of_two(self) -> QuantizationConfig:
        # Neither is as wrong as both: an empty quantization would silently do nothing.
        if self.load_in_4bit == self.load_in_8bit:
            raise ValueError("set load_in_4bit: true or load_in_8bit: true, one of them")
        return self
