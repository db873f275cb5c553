"""What is started once a job has completed: a deployment of Prefect, with parameters of real types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue

from trainer.config.settings import Settings, Text

RESULTS: dict[str, Any] = {
    "job.id": "00000000-0000-0000-0000-000000000000",
    "job.name": "name",
    "job.output": "/folder",
    "job.store": "s3://bucket/folder",
    "job.model": "/model",
    "job.steps": 1,
    "job.train_loss": 1.0,
    "job.eval_loss": 1.0,
    "job.seconds": 1.0,
    "job.gpu_seconds": 1.0,
    "job.cost_usd": 1.0,
}
"""What `${…}` in a parameter may name, each with a value of its type."""
_NAMED = re.compile(r"\$\$\{|\$\{([^{}]*)\}")
_FULL_NAME = re.compile(r"[^/%&<>?#]*\w[^/%&<>?#]*/[^/%&<>?#]*\w[^/%&<>?#]*")


def _full_name(name: str) -> str:
    # Prefect allows no other name; this one becomes a part of an address.
    if not _FULL_NAME.fullmatch(name):
        raise ValueError("must be FLOW/NAME, as 'prefect deployment ls' shows it")
    return name


def _of_results(parameters: dict[str, JsonValue]) -> dict[str, JsonValue]:
    for name in sorted(set(_names_in(parameters)) - set(RESULTS)):
        raise ValueError(
            f"${{{name}}} is not known; there are {', '.join(f'${{{each}}}' for each in RESULTS)}. "
            "Write $${ for a ${ of your own"
        )
    return parameters


class OnCompletion(Settings):
    """A deployment that is started, once, when the job has completed."""

    deployment: Annotated[Text, AfterValidator(_full_name)]
    """FLOW/NAME of any deployment; it must exist before the job starts."""
    parameters: Annotated[dict[str, JsonValue], AfterValidator(_of_results)] = Field(
        default_factory=dict
    )
    """Its parameters, of any JSON type. ${job.output} and the like become the job's values."""


def with_results(parameters: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with what they name of a job: a whole text becomes a value of its type.

    Args:
        parameters: as they stand in the job.
        results: the values by the names of `RESULTS`; what is missing is null.
    """
    return {name: _filled(value, results) for name, value in parameters.items()}


def _filled(value: Any, results: Mapping[str, Any]) -> Any:
    if isinstance(value, Mapping):
        return {name: _filled(each, results) for name, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, results) for each in value]
    if not isinstance(value, str):
        return value
    if (whole := _NAMED.fullmatch(value)) and whole[1] is not None:
        return results.get(whole[1])

    def text_of(named: re.Match[str]) -> str:
        return "${" if named[1] is None else str(results.get(named[1]))

    return _NAMED.sub(text_of, value)


def _names_in(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _names_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from _names_in(each)
    elif isinstance(value, str):
        yield from (named[1] for named in _NAMED.finditer(value) if named[1] is not None)
