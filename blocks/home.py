"""The folder where this installation keeps its files; only its owner can read it."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.contract.errors import ConfigError

HOME_VARIABLE = "TRAINING_ORCHESTRATOR_HOME"


def home() -> Path:
    """Return the installation's folder as an absolute path; create it if it is missing.

    It is `$TRAINING_ORCHESTRATOR_HOME`, or `~/.training-orchestrator`.

    Raises:
        ConfigError: it cannot be created.
    """
    chosen = os.environ.get(HOME_VARIABLE) or "~/.training-orchestrator"
    # Absolute, because the server and the attendant that this process starts run in other folders.
    return private_folder(Path(chosen).expanduser().absolute())


def runs() -> Path:
    """Return the folder of the orchestrator's own notes about each run."""
    return private_folder(home() / "runs")


def instances() -> Path:
    """Return the folder of the job directories on this computer."""
    return private_folder(home() / "instances")


def artifacts() -> Path:
    """Return the folder of verified results."""
    return private_folder(home() / "artifacts")


def keys() -> Path:
    """Return the folder of the key pairs by which rented machines are reached."""
    return private_folder(home() / "keys")


def private_folder(path: Path) -> Path:
    """Return `path` after creating it, with its parents, for its owner alone (mode 0700).

    Raises:
        ConfigError: it cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"The folder {path} cannot be created: {error.strerror}.",
            f"Set {HOME_VARIABLE} to a folder that you may write to.",
        ) from error
    return path
