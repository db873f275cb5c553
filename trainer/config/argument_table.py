"""What becomes of every argument of TRL's and transformers' config classes. Standard library only.

Rows are tokenised, models loaded, evaluated and saved by our own code, so that many an argument would
be taken by its class and read by nobody. Each is therefore in one of these tables, or is a field of
ours; a test compares them with the classes of the installed releases.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Set

ANY_METHOD = frozenset(
    {
        *("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args", "optim_target_modules"),
        *("lr_scheduler_kwargs", "neftune_noise_alpha", "label_smoothing_factor"),
        *("average_tokens_across_devices", "full_determinism", "accelerator_config", "debug"),
        *("bf16_full_eval", "fp16_full_eval", "tf32", "eval_accumulation_steps"),
        *("dataloader_drop_last", "dataloader_in_order", "dataloader_multiprocessing_context"),
        *("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_pin_memory"),
        *("dataloader_prefetch_factor", "train_sampling_strategy", "length_column_name"),
        *("ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters"),
        *("ddp_static_graph", "gradient_checkpointing_kwargs", "torch_empty_cache_steps"),
        *("torch_compile", "torch_compile_backend", "torch_compile_mode"),
        *("use_liger_kernel", "liger_kernel_config", "include_num_input_tokens_seen"),
        *("logging_first_step", "run_name", "project", "restore_callback_states_from_checkpoint"),
    }
)
"""Passed on as they are, with every method."""
OF_TOKENS = frozenset(
    {"activation_offloading", "truncation_mode", "packing_strategy", "eval_packing"}
    | {"router_aux_loss_coef"}
)
OF_GENERATION = frozenset(
    {
        *("cache_implementation", "chat_template_kwargs", "disable_dropout"),
        *("ds3_gather_for_generation", "epsilon", "epsilon_high", "generation_batch_size"),
        *("generation_kwargs", "log_completions", "log_multimodal", "log_unique_prompts"),
        *("mask_truncated_completions", "min_p", "num_completions_to_print"),
        *("num_generations_eval", "num_iterations", "pad_to_multiple_of", "ref_model_mixup_alpha"),
        *("ref_model_sync_steps", "repetition_penalty", "reward_weights", "router_aux_loss_coef"),
        *("shuffle_dataset", "steps_per_generation", "sync_ref_model", "top_k", "top_p"),
        *("transformers_continuous_batching_config", "use_transformers_continuous_batching"),
        *("use_transformers_paged", "use_vllm", "vllm_enable_sleep_mode"),
        *("vllm_gpu_memory_utilization", "vllm_group_port", "vllm_max_model_length", "vllm_mode"),
        *("vllm_model_impl", "vllm_server_base_url", "vllm_server_host", "vllm_server_port"),
        *("vllm_server_timeout", "vllm_structured_outputs_regex", "vllm_tensor_parallel_size"),
    }
)
OF_METHOD: Mapping[str, Set[str]] = {
    "sft": OF_TOKENS,
    "cpt": OF_TOKENS,
    "dpo": frozenset(
        {
            *("activation_offloading", "disable_dropout", "discopop_tau", "f_divergence_type"),
            *("f_alpha_divergence_coef", "label_smoothing", "ld_alpha", "loss_weights"),
            *("pad_to_multiple_of", "precompute_ref_log_probs", "precompute_ref_batch_size"),
            *("ref_model_mixup_alpha", "ref_model_sync_steps", "router_aux_loss_coef"),
            *("sync_ref_model", "truncation_mode", "use_weighting"),
        }
    ),
    "orpo": frozenset({"disable_dropout"}),
    "kto": frozenset(
        {
            *("activation_offloading", "desirable_weight", "disable_dropout", "undesirable_weight"),
            *("pad_to_multiple_of", "precompute_ref_log_probs", "precompute_ref_batch_size"),
            *("ref_model_mixup_alpha", "ref_model_sync_steps", "router_aux_loss_coef"),
            *("sync_ref_model",),
        }
    ),
    "classify": frozenset(),
    "reward": frozenset(
        {"activation_offloading", "center_rewards_coefficient", "disable_dropout"}
        | {"pad_to_multiple_of"}
    ),
    "grpo": OF_GENERATION
    | {
        *("cast_lm_head_to_fp32", "delta", "entropy_coef", "entropy_coef_delta"),
        *("entropy_coef_max", "entropy_coef_min", "entropy_target", "importance_sampling_level"),
        *("log_completions_hub_repo", "max_tool_calling_iterations"),
        *("multi_objective_aggregation", "off_policy_mask_threshold", "sapo_temperature_neg"),
        *("sapo_temperature_pos", "scale_rewards", "top_entropy_quantile"),
        *("use_adaptive_entropy", "use_bias_correction_kl", "vespo_k_neg", "vespo_k_pos"),
        *("vespo_lambda_neg", "vespo_lambda_pos", "vllm_importance_sampling_cap"),
        *("vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"),
        *("vllm_importance_sampling_correction", "vllm_importance_sampling_mode"),
    },
    "rloo": OF_GENERATION | {"normalize_advantages", "reward_clip_range"},
    "ppo": frozenset(
        {"cliprange", "cliprange_value", "gamma", "lam", "missing_eos_penalty"}
        | {"num_mini_batches", "num_ppo_epochs", "vf_coef", "whiten_rewards"}
    ),
}
"""Passed on as they are, by method."""

_TEMPLATE = "set training.chat_template"
_TOKEN = "special tokens are those of the model's tokenizer: change them there"  # noqa: S105 - of text
_LOADING = (
    "the model is loaded by the orchestrator, as training.dtype, attn_implementation and init say"
)
_LOSS_ONLY = "evaluation here computes the loss of every row, and nothing else reads it: remove it"
_EXACT = "a checkpoint of a job resumes exactly, which this would prevent: remove it"
_LOG = "the log is the orchestrator's: remove it"
_TRACKIO = "metrics go to training.report_to: tensorboard, wandb or mlflow"
_SET = "this is set by the orchestrator: remove it"

INSTEAD: Mapping[str, str] = {
    # Fields of ours under another name.
    "activation_checkpointing": "set training.gradient_checkpointing",
    "activation_checkpointing_kwargs": "set training.gradient_checkpointing",
    "auto_find_batch_size": "a batch that does not fit into memory is halved by itself: remove it",
    "bf16": "set training.dtype: bfloat16",
    "fp16": "set training.dtype: float16",
    "data_seed": "set training.seed",
    "deepspeed": "set training.parallelism: deepspeed and training.zero_stage",
    "fsdp": "set training.parallelism: fsdp",
    "fsdp_config": "set training.parallelism: fsdp",
    "parallelism_config": "set training.parallelism",
    "ddp_backend": "set training.parallelism",
    "ddp_timeout": "the supervisor finds processes that hang: remove it",
    "local_rank": _SET,
    "eval_strategy": "set training.eval_steps",
    "do_eval": "set dataset.eval_path, dataset.eval_split or dataset.eval_fraction",
    "eval_delay": "set training.eval_steps",
    "load_best_model_at_end": "set training.early_stopping_patience: the best weights are kept",
    "metric_for_best_model": "the best is that of the lowest eval_loss: remove it",
    "greater_is_better": "the best is that of the lowest eval_loss: remove it",
    "push_to_hub": "set training.push_to_hub",
    "hub_model_id": "set training.push_to_hub: owner/name",
    "hub_always_push": "set training.push_to_hub: the result is uploaded once, at the end",
    "hub_strategy": "set training.push_to_hub: the result is uploaded once, at the end",
    "hub_revision": "set training.push_to_hub: the result is uploaded to its main branch",
    "hub_token": "set HF_TOKEN in the environment, or log in with 'hf auth login'",
    "trackio_bucket_id": _TRACKIO,
    "trackio_space_id": _TRACKIO,
    "trackio_static_space_id": _TRACKIO,
    # What the data say.
    "chat_template_path": _TEMPLATE,
    "eos_token": _TOKEN,
    "pad_token": _TOKEN,
    "padding_value": _TOKEN,
    "completion_only_loss": "of a prompt nothing is learned; put both into one column, text, to learn all",
    "dataset_text_field": "set dataset.columns: {text: your column}",
    "dataset_kwargs": "set the fields of dataset",
    "dataset_num_proc": "rows are tokenised once, by the fast tokenizer: remove it",
    "remove_unused_columns": _SET,
    "label_names": _LOSS_ONLY,
    "is_encoder_decoder": "models are causal: remove it",
    # Of loading.
    "model_init_kwargs": _LOADING,
    "use_cache": _SET,
    # Of saving and resuming.
    "resume_from_checkpoint": (
        "a job resumes from its own newest checkpoint; to go on from another model, set training.model"
    ),
    "ignore_data_skip": _EXACT,
    "save_only_model": _EXACT,
    "save_on_each_node": _SET,
    "enable_jit_checkpoint": "a job that is asked to end saves by itself: remove it",
    # Nobody reads them.
    "batch_eval_metrics": _LOSS_ONLY,
    "eval_do_concat_batches": _LOSS_ONLY,
    "eval_use_gather_object": _LOSS_ONLY,
    "include_for_metrics": _LOSS_ONLY,
    "prediction_loss_only": _LOSS_ONLY,
    "generate_during_eval": _LOSS_ONLY,
    "skip_memory_metrics": "memory is measured and reported by itself: remove it",
    "do_train": _SET,
    "do_predict": _SET,
    "log_level": _LOG,
    "log_level_replica": _LOG,
    "log_on_each_node": _LOG,
    "disable_tqdm": _LOG,
    "logging_nan_inf_filter": _LOG,
    "logging_strategy": "set training.logging_steps",
    "save_strategy": "set training.save_steps",
    "output_dir": "set output_dir of the job",
    "use_cpu": "set resources.gpu_count: 0",
}
"""Refused with every method: what to do instead."""
NOT_WITH: Mapping[str, Mapping[str, str]] = {
    method: {
        "pad_to_multiple_of": "batches have no padding: remove it",
        "shuffle_dataset": "rows are drawn in a new order in every epoch: remove it",
    }
    for method in ("sft", "cpt")
}
"""Refused with some methods, by method."""
FORMER: Mapping[str, str] = {
    "warmup_ratio": "set training.warmup_steps: a number below 1 is a share of all steps",
    "evaluation_strategy": "set training.eval_steps",
    "group_by_length": "set arguments: {train_sampling_strategy: group_by_length}",
    "max_seq_length": "set training.max_length",
    "max_prompt_length": "set training.max_length and training.max_completion_length",
    "no_cuda": "set resources.gpu_count: 0",
    "save_safetensors": "weights are always saved as safetensors: remove it",
    "bf16_backend": "set training.dtype",
    "half_precision_backend": "set training.dtype",
    "torch_dtype": "set training.dtype",
}
"""What earlier releases knew, or people take for an argument."""


def refusal(name: str, method: str, fields: Set[str]) -> str | None:
    """Return why an argument is refused and what to do instead; None: it is passed on.

    Args:
        name: the argument.
        method: the job's.
        fields: the names of our own fields.
    """
    passed = ANY_METHOD | OF_METHOD[method]
    if name in fields:
        return f"this is a field of its own: set training.{name}"
    if name in passed:
        return None
    if instead := NOT_WITH.get(method, {}).get(name) or INSTEAD.get(name) or FORMER.get(name):
        return instead
    if others := [other for other in OF_METHOD if name in OF_METHOD[other]]:
        return f"this is of {', '.join(others)}, not of {method}: remove it"
    close = difflib.get_close_matches(name, {*passed, *fields}, n=1)
    hint = f"did you mean {close[0]}?" if close else "remove it"
    return f"{method} has no such argument: {hint}"
