"""One entry of a batch as several jobs: one for every combination of the values in `matrix`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flows.batches.references import replaced, texts
from trainer.config import TrainingJob
from trainer.config.settings import MAX_NAME
from trainer.contract.errors import ConfigError

VARIABLE = re.compile(r"\$\{matrix\.([A-Za-z0-9_.-]+)\}")
UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")

Values = Mapping[str, Any]


def combinations(matrix: Any, source: str) -> list[Values]:
    """Return every combination of the values of a matrix; of none, a single empty one.

    Args:
        matrix: lists of values by the name of a variable, or by that of a field such as
            `training.learning_rate`.
        source: for messages.

    Raises:
        ConfigError: it is not of that form.
    """
    if matrix is None:
        return [{}]
    if not isinstance(matrix, dict) or not matrix:
        raise ConfigError(
            f"{source}: matrix = {matrix!r}: must name lists of values.",
            "Write it as matrix: {training.learning_rate: [1.0e-4, 2.0e-4]}.",
        )
    for name, values in matrix.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(
                f"{source}: matrix.{name} = {values!r}: must be a list of values.",
                f"Write it as {name}: [A, B].",
            )
        if not VARIABLE.fullmatch(f"${{matrix.{name}}}"):
            raise ConfigError(
                f"{source}: matrix.{name}: is not a name.", "Use letters, digits, '.', '_' and '-'."
            )
    return [
        dict(zip(matrix, chosen, strict=True)) for chosen in itertools.product(*matrix.values())
    ]


def is_field(name: str) -> bool:
    """Whether a name of a matrix is that of a job's field, which then has its values."""
    return name.partition(".")[0] in TrainingJob.model_fields


def filled(settings: dict[str, Any], values: Values, source: str) -> dict[str, Any]:
    """Return settings with the values of a combination, in its fields and for `${matrix.NAME}`.

    Raises:
        ConfigError: a variable is unknown, or of no use.
    """
    used = {match[1] for _, text in texts(settings) for match in VARIABLE.finditer(text)}
    if unknown := sorted(used - values.keys()):
        there = f"there are: {', '.join(values)}" if values else "this job has no matrix"
        raise ConfigError(
            f"{source}: ${{matrix.{unknown[0]}}} is not a variable of its matrix; {there}.",
            "Correct the name, or add it to matrix.",
        )
    if idle := [name for name in values if name not in used and not is_field(name)]:
        raise ConfigError(
            f"{source}: matrix.{idle[0]} changes nothing.",
            f"Use it as ${{matrix.{idle[0]}}}, or write the field's whole name, such as "
            "training.learning_rate.",
        )
    settings = replaced(settings, lambda _, text: _with_values(text, values))
    for name, value in values.items():
        if is_field(name):
            settings = _with_field(settings, name.split("."), value, source)
    return settings


def _with_values(text: str, values: Values) -> Any:
    if (match := VARIABLE.fullmatch(text)) is not None:
        return values[match[1]]  # a number stays one
    return VARIABLE.sub(lambda match: str(values[match[1]]), text)


def _with_field(settings: Any, path: list[str], value: Any, source: str) -> Any:
    name, *rest = path
    if not rest:
        return {**settings, name: value}
    inner = settings.get(name)
    if inner is None:
        inner = {}
    if not isinstance(inner, dict):
        raise ConfigError(
            f"{source}: matrix sets {name}.{'.'.join(rest)}, and {name} = {inner!r} has no fields.",
            f"Write {name} with its fields.",
        )
    return {**settings, name: _with_field(inner, rest, value, source)}


def names(name: str, found: list[Values]) -> Iterator[str]:
    """Yield a name for the job of each combination: with its values, or else a number."""
    if len(found) == 1 or VARIABLE.search(name):
        yield from (str(_with_values(name, values)) for values in found)
        return
    long = [f"{name}-{'-'.join(map(_short, values.values()))}" for values in found]
    if len(set(long)) == len(found) and all(
        len(one) <= MAX_NAME and ".." not in one for one in long
    ):
        yield from long
        return
    yield from (f"{name}-{number}" for number in range(1, len(found) + 1))


def _short(value: Any) -> str:
    return UNSAFE.sub("-", str(value).rstrip("/").rpartition("/")[2]).strip("-") or "none"
