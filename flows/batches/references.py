"""`${base.output}`: what one job of a batch takes from another. Plain texts; nothing is looked up here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from trainer.contract.errors import ConfigError

OUTPUT = "output"
REFERENCE = re.compile(r"\$\{([A-Za-z0-9][A-Za-z0-9._-]*)\.([A-Za-z_]+)\}")
"""A shell has no such form: its names hold no dots, so `${HOME}` in a command stays what it is."""
OWN = "on_completion.parameters"
"""What the job fills in itself when it is completed; see `trainer.config.on_completion`."""
COMMANDS = ("training.command", "setup")
"""Fields whose programs may have such a form of their own, as Hydra's `${model.dim}` is."""


def has_reference(text: str) -> bool:
    """Whether a text takes the output of another job, or a value of its matrix."""
    found = REFERENCE.finditer(text)
    return any(match[2] == OUTPUT or match[1] == "matrix" for match in found)


def whole_reference(text: Any) -> str | None:
    """Return the job whose output a text is, and nothing besides; None for any other."""
    match = REFERENCE.fullmatch(text) if isinstance(text, str) else None
    return match[1] if match and match[2] == OUTPUT else None


def references(value: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield field, job and attribute of every reference in a job's settings."""
    for field, text in texts(value, path):
        if field.startswith(OWN):
            continue
        for match in REFERENCE.finditer(text):
            if match[2] == OUTPUT or not field.startswith(COMMANDS):
                yield field, match[1], match[2]


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield field and value of every text in a job's settings, such as `training.model`."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from texts(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from texts(inner, f"{path}[{number}]")


def replaced(value: Any, of: Callable[[str, str], Any], path: str = "") -> Any:
    """Return a job's settings with every text replaced by what `of` makes of its field and of it."""
    if isinstance(value, str):
        return of(path, value)
    if isinstance(value, Mapping):
        return {
            name: replaced(inner, of, f"{path}.{name}" if path else str(name))
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [replaced(inner, of, f"{path}[{number}]") for number, inner in enumerate(value)]
    return value


def check_attribute(source: str, field: str, job: str, attribute: str) -> None:
    """Refuse to take from a job what no job has.

    Raises:
        ConfigError: naming the field and the reference.
    """
    if attribute != OUTPUT:
        raise ConfigError(
            f"{source}: {field} takes ${{{job}.{attribute}}}, and a job has no {attribute}.",
            f"Write ${{{job}.{OUTPUT}}}, the folder of its result.",
        )
