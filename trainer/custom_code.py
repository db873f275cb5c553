"""The user's own Python in a job: reward functions, callbacks, formatting, as `path.py:name`.

Whoever only checks a job reads the file and runs none of it; it is run in the trainer's process
alone. Standard library only.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import sys
from collections.abc import Collection, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import ConfigError
from trainer.failures import in_own_code
from trainer.files import sha256_of

if TYPE_CHECKING:
    from trainer.config import TrainingConfig


def is_reference(text: str) -> bool:
    """Whether a text means a file of the user's, rather than a name of ours."""
    return ".py:" in text or text.endswith(".py")


def split_reference(text: str, field: str) -> tuple[Path, str]:
    """Return the file and the name in `path.py:name`.

    Raises:
        ConfigError: it is not written so.
    """
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ConfigError(
            f"training.{field}: {text!r} is not written as path.py:name.",
            "Name the file and what in it is meant, such as rewards.py:short.",
        )
    return Path(path).expanduser(), name


def references(config: TrainingConfig) -> Iterator[tuple[str, str]]:
    """Yield field and text of everything in a job that is the user's own code."""
    for name in config.reward_functions:
        if is_reference(name):
            yield "reward_functions", name
    for name in config.callbacks:
        yield "callbacks", name
    if config.formatting:
        yield "formatting", config.formatting


def check_code(config: TrainingConfig, *, elsewhere: Collection[str] = ()) -> None:
    """Read the files without running them: they are there, they are Python, they have the names.

    Args:
        config: the job's config.
        elsewhere: references to files of another computer, which are passed over.

    Raises:
        ConfigError: naming the field, the file and what is wrong with it.
    """
    for field, text in references(config):
        path, name = split_reference(text, field)
        if text in elsewhere:
            continue
        found = _names_in(path, field)
        if name not in found:
            close = difflib.get_close_matches(name, found, n=1)
            there = f"it has {', '.join(found)}" if found else "it has no function and no class"
            raise ConfigError(
                f"training.{field}: {path} has no {name!r}; {there}.",
                f"Did you mean {close[0]}?" if close else "Name one that is there.",
            )


def _names_in(path: Path, field: str) -> list[str]:
    """Return what a file defines or imports at its top level."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        raise ConfigError(
            f"training.{field}: {path}: {error.strerror}.", "Give the path of a Python file."
        ) from None
    except (SyntaxError, ValueError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ConfigError(
            f"training.{field}: {path}{where}: this is not valid Python: {reason}.",
            "Correct that line.",
        ) from None
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names += [target.id for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name for alias in node.names]
    return names


def load(text: str, field: str) -> Any:
    """Run a file, once in this process, and return what it calls by the name.

    Args:
        text: as `path.py:name`.
        field: where it stands in the config, for errors.

    Raises:
        CodeError: the file raises an error, naming its line.
        ConfigError: it has no such name, or what bears it cannot be called.
    """
    path, name = split_reference(text, field)
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
            setattr(callback, event, _guarded(getattr(callback, event), path))
        callbacks.append(callback)
    return callbacks


def _guarded(function: Any, path: Path) -> Any:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with in_own_code(path, "training.callbacks"):
            return function(*args, **kwargs)

    return call


def code_hashes(config: TrainingConfig) -> dict[str, str]:
    """Return the SHA-256 of every file of the user's by its name, with its folder where needed."""
    hashes: dict[str, str] = {}
    paths = {split_reference(text, field)[0].resolve() for field, text in references(config)}
    for path in sorted(paths):
        name = path.name if path.name not in hashes else f"{path.parent.name}/{path.name}"
        hashes[name] = sha256_of(path)
    return hashes
