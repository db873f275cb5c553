"""A tiny model with random weights of any causal architecture that transformers has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = 2048  # of the tokenizer of examples/tiny-llama

SIZES: dict[str, Any] = {
    # how wide
    **dict.fromkeys(
        ["hidden_size", "d_model", "n_embd", "n_embed", "embedding_size", "emb_dim"], 32
    ),
    **dict.fromkeys(
        ["intermediate_size", "ffn_hidden_size", "ffn_dim", "d_ff", "d_inner", "n_inner"], 48
    ),
    **dict.fromkeys(["decoder_ffn_dim", "encoder_ffn_dim", "dense_intermediate_size"], 48),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 16),
    **dict.fromkeys(["head_dim", "d_kv", "rotary_dim"], 8),
    # how deep
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers"], 2),
    **dict.fromkeys(["encoder_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_encoder_layers", "num_decoder_layers"], 2),
    # how many
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads"], 4),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["num_encoder_attention_heads", "num_decoder_attention_heads"], 4),
    "num_key_value_heads": 2,
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_k"], 2),
    # how long
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"], 512),
    **dict.fromkeys(["context_length", "seq_length"], 512),
    "sliding_window": 16,
    # which tokens
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "is_decoder": True,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    "nemotron": {"num_key_value_heads": 2},
}


def tiny_config(kind: str) -> Any:
    """Return the config of a tiny model."""
    from transformers import AutoConfig

    base = AutoConfig.for_model(kind)
    own = OVERRIDES.get(kind, {})
    if base.get_text_config(decoder=True) is base:
        fields = {
            name: size
            for name, size in SIZES.items()
            if getattr(base, name, None) is not None
            or (name.endswith("_token_id") and hasattr(base, name))
        }
        return AutoConfig.for_model(kind, **fields | own)
    _shrink(base, own)
    return base


def _shrink(config: Any, own: dict[str, Any]) -> None:
    from transformers import PretrainedConfig

    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            _shrink(value, own.get(name, {}))
        elif name in SIZES and value is not None:
            setattr(config, name, SIZES[name])
    for name, value in own.items():
        if not isinstance(value, dict):
            setattr(config, name, value)


def tiny_model_folder(folder: Path, kind: str, **own: Any) -> Path:
    """Make a folder with a tiny model and a tokenizer, as a job takes it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.trainer.jobs import TINY_LLAMA

    torch.manual_seed(0)
    config = tiny_config(kind)
    for name, value in own.items():
        setattr(config, name, value)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_LLAMA).save_pretrained(folder)
    return folder
