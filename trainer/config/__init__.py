"""What a user asks for: `TrainingJob` and its parts. YAML on disk, a form in the Prefect UI.

Hyperparameters bear the names that transformers, TRL and PEFT give them, and mean the same.
Everything is refused that is not known, so that a misspelt name is an error, never "off".
"""

from __future__ import annotations

from trainer.config.command import FOREIGN_DATA, CommandConfig
from trainer.config.dataset import DatasetConfig, DatasetFormat, SourceConfig
from trainer.config.job import Limits, Resources, TrainingJob
from trainer.config.peft import LoraConfig, PeftSettings, PrefixTuningConfig, PromptTuningConfig
from trainer.config.quantization import QuantizationConfig
from trainer.config.rewards import JudgeConfig, SandboxConfig
from trainer.config.training import TrainingConfig

__all__ = [
    "FOREIGN_DATA",
    "CommandConfig",
    "DatasetConfig",
    "DatasetFormat",
    "JudgeConfig",
    "Limits",
    "LoraConfig",
    "PeftSettings",
    "PrefixTuningConfig",
    "PromptTuningConfig",
    "QuantizationConfig",
    "Resources",
    "SandboxConfig",
    "SourceConfig",
    "TrainingConfig",
    "TrainingJob",
]
