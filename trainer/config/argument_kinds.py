"""Of which kind an argument's value is, where it is a number or a flag. Standard library only.

The config classes of TRL and transformers take any value. A number in quotes then ends in the midst of a
calculation, and `no`, which is a text in YAML 1.2, counts as true. A test compares the tables with the
classes of the installed releases.
"""

from __future__ import annotations

import math
from typing import Any

FLAGS = frozenset(
    {
        *("activation_offloading", "average_tokens_across_devices", "bf16_full_eval"),
        *("cast_lm_head_to_fp32", "dataloader_drop_last", "dataloader_in_order"),
        *("dataloader_persistent_workers", "dataloader_pin_memory", "ddp_broadcast_buffers"),
        *("ddp_find_unused_parameters", "ddp_static_graph", "disable_dropout"),
        *("ds3_gather_for_generation", "eval_packing", "fp16_full_eval", "full_determinism"),
        *("log_completions", "log_multimodal", "log_unique_prompts", "logging_first_step"),
        *("mask_truncated_completions", "normalize_advantages", "precompute_ref_log_probs"),
        *("restore_callback_states_from_checkpoint", "shuffle_dataset", "sync_ref_model"),
        *("tf32", "torch_compile", "use_adaptive_entropy", "use_bias_correction_kl"),
        *("use_liger_kernel", "use_transformers_continuous_batching"),
        *("use_transformers_paged", "use_vllm", "use_weighting", "vllm_enable_sleep_mode"),
        *("vllm_importance_sampling_correction", "whiten_rewards"),
    }
)
"""True or false."""
WHOLE = frozenset(
    {
        *("dataloader_num_workers", "dataloader_prefetch_factor", "ddp_bucket_cap_mb"),
        *("eval_accumulation_steps", "generation_batch_size", "max_tool_calling_iterations"),
        *("num_completions_to_print", "num_generations_eval", "num_iterations"),
        *("num_mini_batches", "num_ppo_epochs", "precompute_ref_batch_size"),
        *("ref_model_sync_steps", "steps_per_generation", "top_k", "torch_empty_cache_steps"),
        *("vllm_group_port", "vllm_max_model_length", "vllm_server_port"),
        "vllm_tensor_parallel_size",
    }
)
"""Whole numbers."""
NUMBERS = frozenset(
    {
        *("adam_beta1", "adam_beta2", "adam_epsilon", "center_rewards_coefficient"),
        *("cliprange", "cliprange_value", "delta", "desirable_weight", "discopop_tau"),
        *("entropy_coef", "entropy_coef_delta", "entropy_coef_max", "entropy_coef_min"),
        *("entropy_target", "epsilon", "epsilon_high", "f_alpha_divergence_coef", "gamma"),
        *("label_smoothing", "label_smoothing_factor", "lam", "ld_alpha", "min_p"),
        *("missing_eos_penalty", "neftune_noise_alpha", "off_policy_mask_threshold"),
        *("ref_model_mixup_alpha", "repetition_penalty", "router_aux_loss_coef"),
        *("sapo_temperature_neg", "sapo_temperature_pos", "top_entropy_quantile", "top_p"),
        *("undesirable_weight", "vespo_k_neg", "vespo_k_pos", "vespo_lambda_neg"),
        *("vespo_lambda_pos", "vf_coef", "vllm_gpu_memory_utilization"),
        *("vllm_importance_sampling_cap", "vllm_importance_sampling_clip_max"),
        *("vllm_importance_sampling_clip_min", "vllm_server_timeout"),
    }
)
"""Numbers, whole or not."""


def wrong_kind(name: str, value: Any) -> str | None:
    """Return what is wrong with an argument's value, and what to write; None: nothing is known to be."""
    if value is None:  # the default, or that something is off
        return None
    if name == "lr_scheduler_kwargs" and isinstance(value, dict):
        texts = [key for key, each in value.items() if _is_number_in_quotes(each)]
        if texts:
            return f"{texts[0]} is a text: write the number without quotes"
        return next((f"{key}: write a finite number" for key in not_finite(value)), None)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in FLAGS and not isinstance(value, bool):
        return "write true or false"
    if name in WHOLE | NUMBERS and not is_number:
        return (
            "is a text: write the number without quotes"
            if _is_number_in_quotes(value)
            else "write a number"
        )
    if name in WHOLE and isinstance(value, float):
        return "write a whole number"
    if name in WHOLE | NUMBERS and not math.isfinite(value):
        return "write a finite number"
    return None


def not_finite(values: dict[str, Any]) -> list[str]:
    """Return the names of those that are numbers and no amounts: nan and inf."""
    return [
        name for name, each in values.items() if isinstance(each, float) and not math.isfinite(each)
    ]


def _is_number_in_quotes(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isfinite(float(value))
    except ValueError:
        return False
