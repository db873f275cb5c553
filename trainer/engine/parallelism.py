"""How one model is trained by several processes: DDP, FSDP or DeepSpeed's ZeRO.

With ddp every process has the whole model, and they average their gradients. fsdp and deepspeed
share out weights, gradients and the optimizer's state, so that larger models fit; fsdp_hybrid shares
them out within each machine. `trainer.engine.sharding` saves what is shared out.
"""

from __future__ import annotations

from typing import Any

from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError
from trainer.contract.job_directory import JobState
from trainer.contract.world import own_rank
from trainer.engine.collectives import highest
from trainer.engine.control import ControlReader

ENDS = (None, JobState.PAUSED, JobState.STOPPED)
WRAPPED = "_checkpoint_wrapped_module"
FLAGS = (
    *("should_training_stop", "should_epoch_stop"),
    *("should_save", "should_evaluate", "should_log"),
)


def check_parallelism(config: TrainingConfig, processes: int) -> None:
    """Refuse what this number of processes cannot do on this machine's devices.

    Raises:
        ConfigError: naming the field.
    """
    here = own_rank().local_world_size if config.parallelism == "fsdp_hybrid" else processes
    if config.shards and here == 1:
        raise ConfigError(
            f"training.parallelism: {config.parallelism} splits a model across processes, and only one "
            f"{'of this machine' if processes > 1 else 'process'} trains.",
            "Set resources.gpu_count: 2 or more (without a GPU cpu_processes), or parallelism: ddp.",
        )
    if config.parallelism != "deepspeed":
        return
    import torch

    if processes == 1 or not torch.cuda.is_available():
        raise ConfigError(
            "training.parallelism: deepspeed splits a model across GPUs, and here "
            f"{'only one process trains' if processes == 1 else 'there is no GPU'}.",
            "Set resources.gpu_count: 2 or more, or parallelism: fsdp.",
        )


def parallel_arguments(config: TrainingConfig) -> dict[str, Any]:
    """Return what transformers' arguments say of it."""
    if config.shards:
        return {
            # https://huggingface.co/docs/transformers/fsdp
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",  # by the model's own _no_split_modules
                "reshard_after_forward": True,
                # Else transformers would gather all weights for each checkpoint, too.
                "state_dict_type": "SHARDED_STATE_DICT",
                # That of transformers would gather the weights of a layer once more than FSDP's.
                "activation_checkpointing": config.gradient_checkpointing is True,
            },
            "gradient_checkpointing": False,
        }
    if config.parallelism == "deepspeed":
        return {"deepspeed": deepspeed_config(config)}
    return {}


def deepspeed_config(config: TrainingConfig) -> dict[str, Any]:
    """Return DeepSpeed's own settings; transformers fills in whatever is auto."""
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
    }
    if config.zero_stage == 3:
        # Without it only shards are saved, which nothing but DeepSpeed can load.
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # any that transformers knows
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
    }


def shares(config: TrainingConfig, processes: int) -> dict[str, float]:
    """Return what each process holds of weights, gradients and the optimizer's state; 1: all.

    Args:
        config: the job's settings.
        processes: how many train together; with fsdp_hybrid those of one machine.
    """
    part = 1 / processes
    match config.parallelism, config.zero_stage:
        case "ddp", _:  # what is averaged lies in buckets beside the gradients
            return {"gradients": 2.0 if processes > 1 else 1.0}
        case "deepspeed", 1:
            return {"optimizer": part}
        case "deepspeed", 2:
            return {"optimizer": part, "gradients": part}
        case _:
            return {"optimizer": part, "gradients": part, "weights": part}


def is_sharded(trainer: Any) -> bool:
    """Whether each process holds a part of the model only."""
    return bool(trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled)


def is_hybrid(trainer: Any) -> bool:
    """Whether each machine holds the whole model, split across its processes."""
    return bool(trainer.run.config.parallelism == "fsdp_hybrid")


def in_parts(trainer: Any) -> bool:
    """Whether the checkpoint of each machine is a part of the job's."""
    split = trainer.is_fsdp_enabled and not is_hybrid(trainer)
    return bool(split and own_rank().on_several_machines)


def full_weights(trainer: Any) -> dict[str, Any] | None:
    """Return all weights by name where each process holds a part; all processes must ask."""
    if not is_sharded(trainer):
        return None
    wrapped = trainer.model if trainer.is_fsdp_enabled else trainer.deepspeed
    weights: dict[str, Any] = trainer.accelerator.get_state_dict(wrapped)
    # Of weights that go by two names, as tied embeddings do, one copy is saved, as of a whole model.
    every = {name for name, _ in trainer.model.named_parameters(remove_duplicate=False)}
    for name in every - {name for name, _ in trainer.model.named_parameters()}:
        weights.pop(plain_name(name), None)
    _without_wrappers(trainer.model)
    return weights


def plain_name(name: str) -> str:
    """Return the name of weights without what FSDP's gradient checkpointing puts into it."""
    return name.replace(f"{WRAPPED}.", "")


def _without_wrappers(model: Any) -> None:
    """Take out what FSDP's gradient checkpointing wraps layers in.

    PEFT looks for the weights by the names of the modules, and would write an adapter of none.
    """
    for module in [*model.modules()]:
        for name, child in [*module.named_children()]:
            if name != WRAPPED and hasattr(child, WRAPPED):
                setattr(module, name, getattr(child, WRAPPED))


def agreed_end_state(control_reader: ControlReader, control: Any = None) -> JobState | None:
    """Return the state to end in: if any process is asked to end, all end.

    Args:
        control_reader: what was requested of this process.
        control: transformers' flags, which become the same in all processes too.
    """
    # The highest index wins, so a stop wins over a pause. All must act at the same step: a rank
    # that left alone would leave the others in a collective.
    [end] = _agreed(control, ENDS.index(control_reader.end_state()))
    return ENDS[end]


def agree_on(control: Any) -> None:
    """Make transformers' flags the same in all processes."""
    _agreed(control)


def _agreed(control: Any, *others: int) -> list[int]:
    names = FLAGS if control else ()
    agreed = highest([*others, *(int(getattr(control, name)) for name in names)])
    for name, flag in zip(names, agreed[len(others) :], strict=True):
        setattr(control, name, bool(flag))
    return agreed[: len(others)]
