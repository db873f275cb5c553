"""Write a model of transformers as one GGUF file, tensor by tensor, so that memory holds one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TensorNameMap
from safetensors import safe_open
from transformers import AutoConfig

from trainer.contract.errors import TrainingFailed
from trainer.results.gguf.architectures import ARCHITECTURES, PERMUTED, describe, rope_factors
from trainer.results.gguf.vocabulary import add_vocabulary

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

COARSE = {"Q4_0", "Q4_1", "Q5_0", "Q5_1"}
FINE = ("token_embd.weight", "output.weight")
"""Tensors that a coarse quantisation spoils most: they get 8 bits, as llama.cpp gives them more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    """One tensor of the file to be."""

    name: str
    file: Path
    key: str
    """Its name in the safetensors file."""
    shape: tuple[int, ...]
    kind: GGMLQuantizationType


def write_gguf(
    model: Path, tokenizer: PreTrainedTokenizerBase, target: Path, quantization: str
) -> None:
    """Write a file for llama.cpp.

    Args:
        model: a folder with config.json and safetensors.
        tokenizer: as used.
        target: the file.
        quantization: of matrices, by ggml's names; vectors stay float32.

    Raises:
        TrainingFailed: a weight of the model has no name in llama.cpp.
    """
    architecture = AutoConfig.from_pretrained(model)
    kind = ARCHITECTURES[architecture.model_type]
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(target, kind)
    describe(writer, architecture, target.stem)
    add_vocabulary(writer, tokenizer, architecture.vocab_size)
    file_type = "ALL_F32" if quantization == "F32" else f"MOSTLY_{quantization}"
    writer.add_file_type(gguf.LlamaFileType[file_type])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    factors = rope_factors(architecture)
    if factors is not None:
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    tensors = list(_tensors(model, kind, architecture, quantization))
    for tensor in tensors:
        _announce(writer, tensor)
    # All sizes are announced first, so that the data can be written one tensor at a time.
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor in tensors:
        writer.write_tensor_data(_data(tensor, kind, architecture))
    writer.close()


def _tensors(
    model: Path, kind: str, architecture: PretrainedConfig, quantization: str
) -> Iterator[_Tensor]:
    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(arch, architecture.num_hidden_layers)
    for file in sorted(model.glob("*.safetensors")):
        with safe_open(file, framework="pt") as weights:
            for key in weights.keys():  # noqa: SIM118 - no dict
                name = _name(names, key)
                shape = tuple(weights.get_slice(key).get_shape())
                quantized = _kind(name, shape, quantization)
                yield _Tensor(name=name, file=file, key=key, shape=shape, kind=quantized)


def _name(names: TensorNameMap, key: str) -> str:
    name = names.get_name(key, try_suffixes=(".weight", ".bias"))
    if name is None:
        raise TrainingFailed(
            f"The weight {key} has no name in llama.cpp.",
            "Leave export out and resume the job: it is trained, and only its output is missing.",
        )
    return str(name)


def _kind(name: str, shape: tuple[int, ...], quantization: str) -> GGMLQuantizationType:
    """Return how a tensor is stored: vectors whole, rows that no block divides in 16 bits."""
    if len(shape) == 1:
        return GGMLQuantizationType.F32
    finer = quantization in COARSE and name in FINE
    kind = GGMLQuantizationType["Q8_0" if finer else quantization]
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    # ggml's simple quantisations work on blocks of 32 numbers of a row.
    return kind if shape[-1] % block == 0 else GGMLQuantizationType.F16


def _announce(writer: Any, tensor: _Tensor) -> None:
    block, size = gguf.GGML_QUANT_SIZES[tensor.kind]
    nbytes = math.prod(tensor.shape) // block * size
    # The type is given, so the array's own only says that the shape is one of elements.
    writer.add_tensor_info(
        tensor.name, tensor.shape, np.dtype(np.float32), nbytes, raw_dtype=tensor.kind
    )


def _data(tensor: _Tensor, kind: str, architecture: PretrainedConfig) -> NDArray[np.generic]:
    with safe_open(tensor.file, framework="pt") as weights:
        # float32 first: numpy has no bfloat16.
        values = weights.get_tensor(tensor.key).float().numpy()
    if kind in PERMUTED:
        values = _interleaved(values, tensor.key, architecture)
    data: NDArray[np.generic] = gguf.quants.quantize(values, tensor.kind)
    return data


def _interleaved(
    values: NDArray[np.float32], key: str, architecture: PretrainedConfig
) -> NDArray[np.float32]:
    """Reorder the rows of queries and keys, of shape (heads * head_dim, …).

    transformers rotates element i of a head with element i + head_dim / 2, llama.cpp neighbours.
    """
    heads = {
        "q_proj": architecture.num_attention_heads,
        "k_proj": architecture.num_key_value_heads,
    }.get(key.split(".")[-2])
    if heads is None:
        return values
    rest = values.shape[1:]
    # The inverse of what transformers does when it converts from the original weights; permute() in
    # convert_hf_to_gguf.py is the same. https://github.com/ggml-org/llama.cpp
    return values.reshape(heads, 2, -1, *rest).swapaxes(1, 2).reshape(values.shape)
