"""Run the user's own Python of a job: reward functions, callbacks and formatting."""

from __future__ import annotations

import importlib.util
import sys
from functools import wraps
from pathlib import Path
from typing import Any

from trainer.config import TrainingConfig
from trainer.config.code_references import split_reference
from trainer.contract.errors import ConfigError
from trainer.engine.failures import in_own_code


def load(text: str, field: str) -> Any:
    """Run a file, once in this process, and return what it calls by the name.

    Args:
        text: as `path.py:name`.
        field: its place in the config, for errors.

    Raises:
        CodeError: the file raises an error, naming its line.
        ConfigError: it has no such name, or the object of that name is not callable.
    """
    path, name = split_reference(text, field)
    # A name that no import statement of the user can collide with.
    module_name = f"job_code.{path.resolve()}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise ConfigError(f"training.{field}: {path} cannot be loaded.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # dataclasses look for their module there
        beside = str(path.resolve().parent)
        if beside not in sys.path:  # last: what is beside it does not take the place of ours
            sys.path.append(beside)
        try:
            with in_own_code(path, f"training.{field}"):
                spec.loader.exec_module(module)
        except BaseException:
            # A module that raised is half-made; the next load must run it again.
            del sys.modules[module_name]
            raise
    value = getattr(sys.modules[module_name], name, None)
    if not callable(value):
        raise ConfigError(f"training.{field}: {path} has no function or class {name!r}.")
    return value


def load_callbacks(config: TrainingConfig) -> list[Any]:
    """Return the user's callbacks, made without arguments; their errors name file and line.

    Raises:
        ConfigError: one is not a subclass of transformers' TrainerCallback.
        CodeError: one cannot be made.
    """
    from transformers import TrainerCallback

    callbacks = []
    for text in config.callbacks:
        kind = load(text, "callbacks")
        path, _ = split_reference(text, "callbacks")
        if not (isinstance(kind, type) and issubclass(kind, TrainerCallback)):
            raise ConfigError(
                f"training.callbacks: {text} is not a subclass of transformers.TrainerCallback.",
                "Derive it from TrainerCallback.",
            )
        with in_own_code(path, "training.callbacks"):
            callback = kind()
        for event in [name for name in dir(callback) if name.startswith("on_")]:
            # On the instance: other uses of the class stay as they are.
            setattr(callback, event, _guarded(getattr(callback, event), path))
        callbacks.append(callback)
    return callbacks


def _guarded(function: Any, path: Path) -> Any:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with in_own_code(path, "training.callbacks"):
            return function(*args, **kwargs)

    return call
