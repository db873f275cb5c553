"""Which models can be written as GGUF, and how their shape is described to llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.contract.files import read_json

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PretrainedConfig

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""transformers' model types, and the architectures that llama.cpp has for them."""
PERMUTED = {"llama"}
"""Architectures whose rotary halves llama.cpp wants interleaved, as Meta's own weights are."""
ROPE_TYPES = {"default", "linear", "llama3", "yarn"}
REMEDY = (
    "Leave export out and set merge: true; llama.cpp's convert_hf_to_gguf.py may know more, and "
    "takes the folder merged/."
)


def check_export(config: TrainingConfig) -> None:
    """Refuse a model whose files here say that it cannot be exported; nothing heavy is imported.

    Raises:
        ConfigError: naming its type, and what there is.
    """
    if config.export and (found := read_json(Path(config.model).expanduser() / "config.json")):
        _check_type(config.model, str(found.get("model_type")))


def check_architecture(config: TrainingConfig, architecture: PretrainedConfig) -> None:
    """Refuse a model that cannot be exported, by its config.

    Raises:
        ConfigError: naming what of it is not known.
    """
    _check_type(config.model, architecture.model_type)
    kind = str(_rope(architecture).get("rope_type", "default"))
    if kind not in ROPE_TYPES:
        raise ConfigError(
            f"training.export: gguf: {config.model} has rotary embeddings of type {kind!r}; known "
            f"are {', '.join(sorted(ROPE_TYPES))}.",
            REMEDY,
        )


def describe(writer: GGUFWriter, architecture: PretrainedConfig, name: str) -> None:
    """Write the model's shape into the file's metadata."""
    heads = architecture.num_attention_heads
    # Qwen3 and others have heads whose width is not hidden_size / heads.
    width = getattr(architecture, "head_dim", None) or architecture.hidden_size // heads
    writer.add_type("model")
    writer.add_name(name)
    writer.add_vocab_size(architecture.vocab_size)
    writer.add_block_count(architecture.num_hidden_layers)
    writer.add_context_length(architecture.max_position_embeddings)
    writer.add_embedding_length(architecture.hidden_size)
    writer.add_feed_forward_length(architecture.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(architecture.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(architecture.rms_norm_eps)
    writer.add_rope_dimension_count(width)
    _describe_rope(writer, _rope(architecture))


def rope_factors(architecture: PretrainedConfig) -> Any:
    """Return by how much Llama 3 slows each rotary frequency: float32, shape (head_dim / 2,).

    llama.cpp reads them as a tensor. None where frequencies are as they are, or scaled as one.
    """
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = _rope(architecture)
    if rope.get("rope_type") != "llama3":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](architecture, "cpu")
    steps = torch.arange(len(scaled), dtype=torch.float32) / len(scaled)
    # llama.cpp divides its own frequencies by these, so: unscaled over scaled.
    return (rope["rope_theta"] ** -steps / scaled).numpy()


def _describe_rope(writer: GGUFWriter, rope: dict[str, Any]) -> None:
    from gguf import RopeScalingType

    writer.add_rope_freq_base(float(rope.get("rope_theta", 10_000.0)))
    kind = rope.get("rope_type", "default")
    # llama3 goes into the tensor of factors instead; see `rope_factors`.
    if kind not in {"linear", "yarn"}:
        return
    writer.add_rope_scaling_type(RopeScalingType(kind))
    writer.add_rope_scaling_factor(float(rope["factor"]))
    if original := rope.get("original_max_position_embeddings"):
        writer.add_rope_scaling_orig_ctx_len(int(original))


def _rope(architecture: PretrainedConfig) -> dict[str, Any]:
    return dict(getattr(architecture, "rope_parameters", None) or {})


def _check_type(model: str, kind: str) -> None:
    if kind not in ARCHITECTURES:
        raise ConfigError(
            f"training.export: gguf: {model} is of type {kind!r}; written are "
            f"{', '.join(ARCHITECTURES)}.",
            REMEDY,
        )
