"""References to the user's own Python in a job: `path.py:name`. The files are read, never run.

Reward functions, callbacks and formatting may be the user's own; `trainer.engine.custom_code` runs
them, in the trainer's process alone.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Collection, Iterator
from pathlib import Path

from trainer.config.training_fields import TrainingFields
from trainer.contract.errors import ConfigError
from trainer.contract.files import sha256_of


def is_reference(text: str) -> bool:
    """Whether a text means a file of the user's, rather than a name of ours."""
    return ".py:" in text or text.endswith(".py")


def split_reference(text: str, field: str) -> tuple[Path, str]:
    """Return the file and the name in `path.py:name`.

    Raises:
        ConfigError: it is not written so.
    """
    # From the right: a folder may have a colon in its name.
    path, _, name = text.rpartition(":")
    if not path.endswith(".py") or not name.isidentifier():
        raise ConfigError(
            f"training.{field}: {text!r} is not written as path.py:name.",
            "Name the file and what in it is meant, such as rewards.py:short.",
        )
    return Path(path).expanduser(), name


def references(config: TrainingFields) -> Iterator[tuple[str, str]]:
    """Yield field and text of everything in a job that is the user's own code."""
    for name in config.reward_functions:
        if is_reference(name):
            yield "reward_functions", name
    for name in config.callbacks:
        yield "callbacks", name
    if config.formatting:
        yield "formatting", config.formatting


def check_code(config: TrainingFields, *, elsewhere: Collection[str] = ()) -> None:
    """Check without running them that the files exist, are Python, and define the names.

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
        # Bytes, so that a coding declaration (PEP 263) in the file is respected.
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


def code_hashes(config: TrainingFields) -> dict[str, str]:
    """Return the SHA-256 of every file of the user's by its name, with its folder where needed."""
    hashes: dict[str, str] = {}
    paths = {split_reference(text, field)[0].resolve() for field, text in references(config)}
    for path in sorted(paths):
        # Names, not paths: the record travels with the result, and a path would reveal a home
        # folder.
        name = path.name if path.name not in hashes else f"{path.parent.name}/{path.name}"
        hashes[name] = sha256_of(path)
    return hashes
