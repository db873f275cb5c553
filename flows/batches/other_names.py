"""The names that other orchestrators have for what a job of a batch says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trainer.contract.errors import ConfigError

Put = Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


def _minutes(seconds: Any) -> Any:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return (
        seconds / 60 if is_number else seconds
    )  # what is no number is refused by the field's name


NAMES: dict[str, tuple[str, Put]] = {
    "config_path": ("file", _same),
    "dependencies": ("after", _same),
    "gpu_requirements": ("resources.gpu_count", _same),
    "vram_requirements": ("resources.min_vram_gb", _same),
    "retry_count": ("retries", _same),
    "timeout": ("limits.max_runtime_minutes", _minutes),
}
"""Ours for each, and how its values become ours; a timeout is in seconds."""


def with_our_names(given: dict[str, Any], source: str) -> dict[str, Any]:
    """Return a job of a batch under our names alone.

    Raises:
        ConfigError: something is given by both names.
    """
    found = {name: value for name, value in given.items() if name not in NAMES and name != "id"}
    for name in NAMES.keys() & given.keys():
        ours, change = NAMES[name]
        if given[name] is None:
            continue
        *path, last = ours.split(".")
        inner = found
        for part in path:
            below = inner.get(part)
            inner[part] = dict(below) if isinstance(below, dict) else {}
            inner = inner[part]
        if last in inner:
            raise ConfigError(
                f"{source}: {name} and {ours} are the same, and both are given.",
                "Keep one of them.",
            )
        inner[last] = change(given[name])
    return found


def names_of_ids(entries: list[tuple[str, dict[str, Any]]]) -> dict[str, str]:
    """Return the names of jobs by their ids, where they have any; others refer to jobs by these."""
    return {
        str(given["id"]): name for name, given in entries if isinstance(given.get("id"), str | int)
    }
