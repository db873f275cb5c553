"""Load frozen weights in 4 or 8 bits, and count what they weigh."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainer.config import QuantizationConfig, TrainingConfig
from trainer.engine.arguments import precision
from trainer.engine.attention import without_adapters

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

BLOCK, BLOCK_OF_SCALES = 64, 256
"""How many weights share a scale, and how many scales share one: bitsandbytes' own numbers."""


def loading_options(config: TrainingConfig) -> dict[str, Any]:
    """Return what `from_pretrained` takes to quantise; nothing where the job does not."""
    import torch
    from transformers import BitsAndBytesConfig

    if config.quantization is None:
        return {}
    given = config.quantization.model_dump()
    given["bnb_4bit_compute_dtype"] = given["bnb_4bit_compute_dtype"] or precision(config)
    # It is quantised where it is to stay: a process has a GPU of its own.
    device = int(os.environ.get("LOCAL_RANK", "0")) if torch.cuda.is_available() else "cpu"
    return {"quantization_config": BitsAndBytesConfig(**given), "device_map": {"": device}}


def keep_differentiable(model: PreTrainedModel) -> None:
    """Keep 4-bit layers differentiable after an evaluation, on every CPU.

    Where there is AVX512-BF16, bitsandbytes packs their weights at the first evaluation for a
    kernel that has no gradient, and takes that kernel from then on.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


@contextmanager
def masters_kept(model: PreTrainedModel) -> Iterator[None]:
    """Leave trained weights as they are: TRL rounds those on a quantised model to bfloat16.

    In bfloat16 most steps of a usual size are rounded away: of 1e-5, 95 % change nothing.
    """
    quantised = getattr(model, "hf_quantizer", None) is not None
    trained = (named for named in model.named_parameters() if quantised and named[1].requires_grad)
    # Held by reference: TRL puts a rounded copy in its place, so these are untouched.
    masters = {name: parameter.data for name, parameter in trained}
    yield
    for name, parameter in model.named_parameters():
        if name in masters:
            parameter.data = masters[name].to(parameter.device)


def weight_bytes(model: PreTrainedModel, settings: QuantizationConfig | None) -> float:
    """Return what the weights of a model take that was built without quantising it.

    Args:
        model: with its adapters, on whatever device.
        settings: how it will be quantised; None: not at all.
    """
    quantised = set() if settings is None else {id(w) for w in _quantised(model, settings)}
    sizes: Iterator[float] = (
        p.numel() * (_bytes_per_weight(settings) if id(p) in quantised else p.element_size())
        for p in model.parameters()
    )
    return sum(sizes)


def _quantised(
    model: PreTrainedModel, settings: QuantizationConfig
) -> Iterator[torch.nn.Parameter]:
    """Yield the weights that transformers quantises: of linear layers that are not skipped."""
    import torch
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    base = without_adapters(model)
    skipped = settings.llm_int8_skip_modules
    if skipped is None:
        # What transformers itself leaves out: the head, and weights tied to it.
        skipped = get_keys_to_not_convert(base)
    for name, module in base.named_modules():
        layer = name.removesuffix(".base_layer")  # where an adapter lies around it
        is_frozen = type(module) is torch.nn.Linear and not module.weight.requires_grad
        if is_frozen and should_convert_module(layer, skipped):
            yield module.weight


def _bytes_per_weight(settings: QuantizationConfig | None) -> float:
    if settings is None or settings.load_in_8bit:
        return 1.0  # the scales, one a row, are too few to count
    # Double quantisation: 8 bits a block, and a float32 for each 256 blocks (arXiv:2305.14314).
    scale = 1 / BLOCK + 4 / (BLOCK * BLOCK_OF_SCALES)
    return 0.5 + (scale if settings.bnb_4bit_use_double_quant else 4 / BLOCK)
