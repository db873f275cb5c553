"""Code that a model brings along, which loading the model runs. The files are read, never run."""

from __future__ import annotations

import re
from pathlib import Path

from trainer.config.training_fields import TrainingFields
from trainer.contract.errors import ConfigError
from trainer.contract.files import read_json, sha256_of

# https://huggingface.co/docs/transformers/custom_models: auto_map names the classes and their files.
CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json")
COMMIT = re.compile(r"[0-9a-f]{40}")


def code_of(model: str) -> dict[str, str]:
    """Return the SHA-256 of each file of code in a model's folder; none for a model on the Hub."""
    folder = Path(model).expanduser()
    if not any((read_json(folder / name) or {}).get("auto_map") for name in CONFIGS):
        return {}
    return {path.name: sha256_of(path) for path in sorted(folder.glob("*.py"))}


def check_model_code(config: TrainingFields) -> str:
    """Return in a few words what code the model brings along, and whether it is run.

    Raises:
        ConfigError: code of the Hub would be run, whichever is there on that day.
    """
    if Path(config.model).expanduser().exists():
        found = code_of(config.model)
        named = ", ".join(f"{name} {sha256[:12]}" for name, sha256 in found.items())
        how = "run" if config.trust_remote_code else "not run"
        return f"code of its own, {how}: {named}" if found else ""
    if config.trust_remote_code and not COMMIT.fullmatch(config.revision or ""):
        raise ConfigError(
            f"training.trust_remote_code: {config.model} on the Hub may have other code tomorrow, and "
            f"training.revision = {config.revision!r} does not pin it.",
            "Read its code, and set training.revision to that commit (40 hexadecimal digits).",
        )
    return f"its code at commit {config.revision}, run" if config.trust_remote_code else ""


def untrusted(config: TrainingFields) -> ConfigError:
    """Return the error of a model that cannot be loaded without its own code."""
    files = ", ".join(code_of(config.model)) or "in its repository"
    return ConfigError(
        f"training.model: {config.model} is made by code of its own ({files}), which loading it would "
        "run.",
        "Read that code, and set training.trust_remote_code: true, for a model on the Hub with a "
        "training.revision; or choose a model that transformers knows by itself.",
    )
