"""A configuration file of kohya's sd-scripts as a job: what `train_network.py --config_file` would read.

What we have a word for becomes our field, so that reports and estimates are true; everything else goes
to the script as it stands. Where the file says nothing, kohya's defaults count, and not ours.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from trainer.contract.errors import ConfigError
from trainer.presets.kohya import OPTIMIZERS, SCHEDULES

MODEL = "pretrained_model_name_or_path"
OWN_TABLE = "training_orchestrator"
"""A table of ours in the file: fields of a job, which outweigh what is made of the rest."""
SCRIPT = "TRAINING_ORCHESTRATOR_KOHYA"
"""The environment variable that names the script, or the folder of sd-scripts."""
DEFAULT_SCRIPT = "train_network.py"
OURS = ("save_state", "resume", "save_state_to_huggingface", "skip_until_initial_step")
"""What supervision sets: a job is resumed by us."""
DTYPES = {"no": "float32", "fp16": "float16", "bf16": "bfloat16"}
MAX_STEPS = 1600  # kohya's default of --max_train_steps
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
PATHS = ("logging_dir", "vae", "network_weights", "sample_prompts", "base_weights")


def is_kohya(value: dict[str, Any]) -> bool:
    """Whether a TOML file is one of kohya's, in tables of any names or in none."""
    return MODEL in flat(value) and "training" not in value


def flat(value: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of all tables together, as kohya reads them."""
    found: dict[str, Any] = {}
    for name, inner in value.items():
        if name == OWN_TABLE:
            continue
        found |= inner if isinstance(inner, dict) else {name: inner}
    return found


def job_of(value: dict[str, Any], source: str) -> dict[str, Any]:
    """Return a job, whose relative paths are as they stand in the file.

    Args:
        value: what is in the file.
        source: its name, for messages, and for the job if it has no `output_name`.

    Raises:
        ConfigError: the file asks for what cannot be kept.
    """
    given = flat(value)
    _refuse(given, source)
    name = NOT_IN_NAMES.sub("-", str(given.pop("output_name", None) or Path(source).stem))
    output = given.pop("output_dir", None)
    training = {"trainer": "kohya", **_training(given, source)}
    if script := _script():
        training["command"] = {"run": script}
    job: dict[str, Any] = {"name": name.strip("-.") or "kohya", "training": training}
    if output:
        job["output_dir"] = f"{str(output).rstrip('/')}/{job['name']}"
    own = value.get(OWN_TABLE)
    return _merged(job, own) if isinstance(own, dict) else job


def _refuse(given: dict[str, Any], source: str) -> None:
    if (kind := given.pop("save_model_as", "safetensors")) != "safetensors":
        raise ConfigError(
            f"{source}: save_model_as = {kind!r}: only safetensors are kept, which can run no code.",
            'Write save_model_as = "safetensors".',
        )
    if given.get("reg_data_dir"):
        raise ConfigError(
            f"{source}: reg_data_dir = {given['reg_data_dir']!r}: is not read from here.",
            "Name the images in a dataset_config, with is_reg = true.",
        )
    for name in OURS:
        given.pop(name, None)


def _training(given: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the training config; what is left of `given` becomes its arguments."""
    folder, config = given.pop("train_data_dir", None), given.pop("dataset_config", None)
    if not folder and not config:
        raise ConfigError(
            f"{source}: names no images.",
            "Set train_data_dir, or dataset_config, to where they are.",
        )
    found: dict[str, Any] = {
        "model": given.pop(MODEL),
        "dataset": {"path": config or folder},
        "peft": {
            "r": given.pop("network_dim", None) or 4,
            "lora_alpha": given.pop("network_alpha", None) or 1,
            "lora_dropout": given.pop("network_dropout", None) or 0.0,
        },
        "learning_rate": given.pop("learning_rate", 2e-6),
        "per_device_train_batch_size": given.pop("train_batch_size", 1),
        "gradient_accumulation_steps": given.pop("gradient_accumulation_steps", 1),
        "warmup_steps": given.pop("lr_warmup_steps", 0),
        "max_grad_norm": given.pop("max_grad_norm", 1.0),
        "gradient_checkpointing": given.pop("gradient_checkpointing", False),
        "dtype": DTYPES.get(str(given.get("mixed_precision", "no")), "auto"),
    }
    given.pop("mixed_precision", None)
    epochs, steps = given.pop("max_train_epochs", None), given.pop("max_train_steps", MAX_STEPS)
    found |= {"num_train_epochs": epochs} if epochs else {"max_steps": steps}
    for ours, theirs in (("seed", "seed"), ("save_steps", "save_every_n_steps")):
        if given.get(theirs) is not None:
            found[ours] = given.pop(theirs)
    found |= _choices(given)
    if given.get("network_module") == "networks.lora":
        del given["network_module"]
    # What we would set otherwise, and kohya would not.
    given.setdefault("optimizer_args", [])
    given.setdefault("enable_bucket", False)
    given.setdefault("caption_extension", ".caption")
    return {**found, "arguments": given}


def _choices(given: dict[str, Any]) -> dict[str, Any]:
    """Return optimizer and schedule where we have a word for them; the rest goes on as it stands."""
    found = {}
    optimizers = {theirs.lower(): ours for ours, theirs in reversed(OPTIMIZERS.items())}
    optimizer = str(given.get("optimizer_type") or "AdamW").lower()
    if optimizer in optimizers:
        found["optim"] = optimizers[optimizer]
        given.pop("optimizer_type", None)
    schedule = given.get("lr_scheduler", "constant")
    if schedule in SCHEDULES:
        found["lr_scheduler_type"] = schedule
        given.pop("lr_scheduler", None)
    return found


def _script() -> list[str] | None:
    named = os.environ.get(SCRIPT)
    if not named:
        return None
    path = Path(named).expanduser()
    return ["python", str(path / DEFAULT_SCRIPT if path.suffix != ".py" else path)]


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for name, value in over.items():
        below = found.get(name)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merged(below, value)
        found[name] = value
    return found


def with_absolute_paths(training: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the training config with the paths in its arguments absolute, where the files are there."""
    arguments = dict(training.get("arguments") or {})
    for name in PATHS:
        text = arguments.get(name)
        if isinstance(text, str) and (folder / Path(text).expanduser()).exists():
            arguments[name] = str(folder / Path(text).expanduser())
    return {**training, "arguments": arguments}
