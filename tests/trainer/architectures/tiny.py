"""A tiny model with random weights of any causal architecture that transformers has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

VOCABULARY = 2048  # of the tokenizer of examples/tiny-llama
SAME = {
    32: (
        "hidden_size_global",
        "hidden_size",
        "d_model",
        "n_embd",
        "n_embed",
        "embedding_size",
        "emb_dim",
        "axial_dim",
    ),
    48: (
        *("intermediate_size", "ffn_hidden_size", "ffn_dim", "d_ff", "n_inner"),
        *("decoder_ffn_dim", "encoder_ffn_dim", "dense_intermediate_size"),
    ),
    16: (
        *("moe_intermediate_size", "shared_expert_intermediate_size", "sliding_window"),
        *("kv_lora_rank", "q_lora_rank", "mamba_d_state", "router_hidden_size"),
    ),
    8: (
        *("head_dim", "d_kv", "rotary_dim", "mamba_n_heads", "n_mamba_heads"),
        *("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "hidden_size_per_layer_input"),
    ),
    4: (
        *("num_attention_heads", "n_head", "n_heads", "num_experts", "num_local_experts"),
        *("encoder_attention_heads", "decoder_attention_heads", "n_routed_experts"),
        *("num_encoder_attention_heads", "num_decoder_attention_heads", "moe_num_experts"),
    ),
    2: (
        *("num_hidden_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers"),
        *("num_encoder_layers", "num_decoder_layers", "num_layers", "eos_token_id"),
        *("num_key_value_heads", "num_experts_per_tok", "moe_k"),
    ),
    1: ("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"),
    512: (
        *("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length"),
        "seq_length",
    ),
    VOCABULARY: ("vocab_size", "vocab_size_per_layer_input"),
}
SIZES: dict[str, Any] = {name: size for size, names in SAME.items() for name in names} | {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "is_decoder": True,
}

GEMMA4 = {"global_head_dim": 8, "num_kv_shared_layers": 0}
HYBRID = ["linear_attention", "hybrid", "linear_attention", "hybrid"]
QWEN = {"layer_types": ["linear_attention", "full_attention"]}
"""Four layers would be needed for one that attends, which no model lacks."""
INDEXER = {
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
ZAMBA = {"num_hidden_layers": 4, "layers_block_type": HYBRID, "num_key_value_heads": 4}
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "bailing_hybrid": {"layer_group_size": 2},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}
    },
    "prophetnet": {"num_hidden_layers": None},
    "blt": {
        "hidden_size_global": 32,
        "encoder_hash_byte_group_vocab": 64,
        "encoder_hash_byte_group_size": [3],
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48},
    },
    "deepseek_v4": {"num_hidden_layers": 4},
    "flint": {"num_hidden_layers": 4},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1},
    "dots3_note_text": {"per_layer_config": {}},
    "dots3_note_vision_encoder": {
        "mlp_layer_types": ["dense", "dense"],
        "adapter_in_dim": 32,
        "adapter_out_dim": 32,
    },
    "dots3_note_audio_encoder": {"adapter_input_size": 32, "adapter_out_dim": 32},
    "falcon": {"head_dim": None},
    "gemma3n_text": {"num_kv_shared_layers": 0, "num_hidden_layers": 5},
    "gemma4_text": GEMMA4,
    "gemma4_unified_text": GEMMA4,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "moe_topk": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"num_hidden_layers": 5, "linear_head_dim": 8, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm3": {"num_hidden_layers": 5},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "longcat_flash": {"head_dim": 8},
    "marian": {"decoder_vocab_size": VOCABULARY},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2},
    "phimoe": {"sliding_window": 16},
    **dict.fromkeys(("qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), QWEN),
    "qwen4_exp_text": QWEN | INDEXER,
    "reformer": {"axial_pos_embds": False},
    "xlnet": {"d_inner": 48, "max_position_embeddings": None},
    "xlstm": {"v_head_dim": None, "head_dim": None},
    "xmod": {"default_language": "en_XX"},
    "zamba": ZAMBA,
    "zamba2": ZAMBA,
    "zaya": {"num_experts_per_tok": 1},
}
ASSISTANT = {
    "text_config": {
        "model_type": "gemma4_text",
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_kv_shared_layers": 2,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "head_dim": 8,
        "global_head_dim": 8,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 0,
    }
}
SMALL_EYES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
NEEDED = {"gemma4_assistant": ASSISTANT, "moshi": {"audio_vocab_size": VOCABULARY}}
"""What a config cannot be made without: its own defaults are refused."""
PARTS = (
    *("text_config", "text", "decoder"),
    *("patcher_config", "encoder_config", "decoder_config", "global_config"),
)


def tiny_config(kind: str) -> Any:
    """Return the config of a tiny model."""
    from transformers import AutoConfig

    base = AutoConfig.for_model(kind, **NEEDED.get(kind, {}))
    fields = NEEDED.get(kind, {}) | _fields(base, kind)
    for name in getattr(type(base), "sub_configs", {}):
        part = getattr(base, name, None)
        if not getattr(part, "model_type", None) or name == "audio_encoder_config":
            continue
        own = (
            {"model_type": part.model_type}
            | _fields(part, part.model_type)
            | NEEDED.get(kind, {}).get(name, {})
        )
        if name not in PARTS:  # it sees or hears, and is not used here
            own = {key: own[key] for key in SMALL_EYES if key in own}
            own |= OVERRIDES.get(part.model_type, {})
        fields[name] = own | fields.get(name, {})
    return AutoConfig.for_model(kind, **fields)


def _fields(config: Any, kind: str) -> dict[str, Any]:
    """Return what to set of a config: of what it has, what makes it small."""
    fields: dict[str, Any] = {}
    for name, size in SIZES.items():
        try:
            is_there = getattr(config, name, None) is not None
        except Exception:  # noqa: BLE001 - it varies from layer to layer, in a class of its own
            is_there = True
        if is_there or (name == "pad_token_id" and hasattr(config, name)):
            fields[name] = size
    if "kv_lora_rank" in fields:  # one head a key, whose parts have sizes of their own
        fields |= {"num_key_value_heads": fields["num_attention_heads"]}
        fields.pop("head_dim", None)
    # Of a loss that is compared nothing may be left to chance.
    fields |= {
        name: type(value)(0)
        for name, value in vars(config).items()
        if "drop" in name and type(value) in {int, float}
    }
    fields |= OVERRIDES.get(kind, {})
    return {name: value for name, value in fields.items() if value is not None}


def tiny_model_folder(folder: Path, kind: str) -> Path:
    """Make a folder with a tiny model and a tokenizer, as a job takes it; the weights come last."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.trainer.jobs import TINY_LLAMA

    torch.manual_seed(0)
    config = tiny_config(kind)
    AutoTokenizer.from_pretrained(TINY_LLAMA).save_pretrained(folder)
    config.save_pretrained(folder)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    config.save_pretrained(folder)  # once more: of some the model keeps the language part alone
    return folder
