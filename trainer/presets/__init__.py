"""Other projects by name: our settings in their words. Nothing here imports torch.

Adding one is a file with a `PRESET`, a line here, and its name in `trainer.config.command`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.config import CommandConfig, TrainingConfig
from trainer.config.explain import validated
from trainer.contract.files import read_json
from trainer.contract.job_directory import JobDirectory
from trainer.presets.axolotl import PRESET as AXOLOTL
from trainer.presets.kohya import PRESET as KOHYA
from trainer.presets.llama_factory import PRESET as LLAMA_FACTORY
from trainer.presets.preset import Preset, Start, refuse, refuse_unread
from trainer.presets.rows import write_rows
from trainer.presets.torchtune import PRESET as TORCHTUNE
from trainer.presets.unsloth import PRESET as UNSLOTH

PRESETS: dict[str, Preset] = {
    preset.name: preset for preset in (AXOLOTL, KOHYA, LLAMA_FACTORY, TORCHTUNE, UNSLOTH)
}

READ_BY_COMMANDS = frozenset(
    {
        *("trainer", "command", *(f"command.{name}" for name in CommandConfig.model_fields)),
        *(
            "model",
            "dataset.path",
            "dataset.eval_path",
            "dataset.eval_split",
            "seed",
            "per_device_train_batch_size",
        ),
        *("gradient_accumulation_steps", "save_total_limit", "async_save"),
    }
)
"""The settings that mean something to `trainer: command`: ours about files, and placeholders."""

__all__ = ["PRESETS", "Preset", "check_foreign_settings", "translate"]


def check_foreign_settings(config: TrainingConfig) -> None:
    """Refuse what another trainer cannot do, and what it would silently leave out.

    Raises:
        ConfigError: naming the field.
        DataError: what the job names is not there.
    """
    if config.trainer == "command":
        refuse_unread(config, READ_BY_COMMANDS)
    else:
        refuse(config, PRESETS[config.trainer])


def translate(directory: JobDirectory, resume_from: Path | None) -> dict[str, Any]:
    """Write another project's files into a job directory; return the `command` that runs it.

    Args:
        directory: the job's.
        resume_from: the checkpoint to continue from, if any.

    Raises:
        ConfigError: there is no config, or the project cannot do what it asks for.
        DataError: a row cannot be used.
    """
    record = (read_json(directory.job) or {}).get("config")
    config = validated(TrainingConfig, record, str(directory.job))
    preset = PRESETS[config.trainer]
    # Once more on the machine: the model and the files that count are there now.
    refuse(config, preset)
    start = Start(
        config=config,
        root=directory.root.resolve(),
        resume_from=resume_from.resolve() if resume_from else None,
        batch_divisor=directory.read_status().batch_divisor,
        # Without importing torch, which this process never needs.
        has_gpu=Path("/proc/driver/nvidia").exists(),
    )
    if preset.reads_rows:
        start = replace(start, row_count=write_rows(start))
    return as_command(preset, start)


def as_command(preset: Preset, start: Start) -> dict[str, Any]:
    """Write a project's own settings; return the `command` that runs it."""
    for path, text in preset.files(start).items():
        target = start.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    given = start.config.command or CommandConfig()
    # The user may start it by a launcher, or from an environment of its own.
    program = given.run if isinstance(given.run, list) and given.run else [preset.program]
    own = {"arguments": preset.arguments, **preset.command, **preset.varies(start)}
    return {
        **given.model_dump(mode="json"),
        **own,
        "env": {**own.get("env", {}), **given.env},
        "run": [*program, *own["arguments"]],
    }
