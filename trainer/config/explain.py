"""Turn pydantic's validation errors into one message a person can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from trainer.contract.errors import ConfigError

MAX_PROBLEMS = 20
_ORDER = re.compile(r"^\w+ should ")  # "Input should be", "String should have"
_CHOICE = re.compile(r"literal\[|list\[|str$|function-after\[|[A-Z]\w*Config$")
ELSEWHERE = dict.fromkeys(("weight", "ratio", "proportion", "probability", "prob"), "share")
"""What other projects call a field of ours, where the words are not alike."""
Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], value: Any, source: str, remedy: str | None = None) -> Model:
    """Return `value` as a `model`.

    Args:
        model: what it is to be.
        value: as it was read.
        source: where it comes from.
        remedy: what to do about mistakes where the source is no job file.

    Raises:
        ConfigError: naming `source`, and for every problem the field, the value and the remedy.
    """
    if not isinstance(value, dict):
        raise ConfigError(
            f"{source}: holds a {type(value).__name__}, not a mapping of field names to values.",
            remedy or "Start from the file that 'trainctl init' writes.",
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = _joined(_problems(model, error))
        if len(problems) > MAX_PROBLEMS:
            # A whole file of the wrong kind has a problem in every line.
            problems[MAX_PROBLEMS:] = [f"and {len(problems) - MAX_PROBLEMS} more"]
        shown = "; ".join(problems)
        # from None: the traceback of pydantic would say the same once more, and worse.
        end = "" if shown.endswith("?") else "."
        raise ConfigError(f"{source}: {shown}{end}", remedy) from None


def _joined(problems: Iterator[str]) -> list[str]:
    """Return one sentence for a value of none of the types that a field may have; pydantic has one for each."""
    found: dict[str, str] = {}
    for problem in problems:
        head, _, order = problem.partition(": must ")
        is_another = order and head in found
        found[head] = f"{found[head]}, or {order}" if is_another else problem
    return list(found.values())


def _problems(model: type[BaseModel], error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"] if not _is_choice(part))
        given = problem.get("input")
        match problem["type"]:
            case "missing":
                yield f"{where} is missing"
            case "extra_forbidden":
                yield f"{where} is not a field{_did_you_mean(model, problem['loc'])}"
            case "value_error":
                # Rules about several fields get the whole job as input, and name their field
                # themselves.
                given_text = "" if isinstance(given, BaseModel | dict) else f" = {_short(given)}"
                yield f"{where}{given_text}: {problem['ctx']['error']}".removeprefix(": ")
            case _:
                yield f"{where} = {_short(given)}: {_ORDER.sub('must ', problem['msg'])}"


def _is_choice(part: int | str) -> bool:
    """Whether pydantic, not the user, put this into the path: which of several types it tried."""
    return _CHOICE.match(str(part)) is not None


def _did_you_mean(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    known = _fields_at(model, location[:-1])
    name = str(location[-1])
    close = [ELSEWHERE[name]] if ELSEWHERE.get(name) in known else []
    close = close or difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(known)}"


def _fields_at(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the names of the fields of the settings that `path` leads to."""
    choices = [model]
    for part in path:
        # For a union pydantic puts the name of the class that it tried into the path.
        tried = [kind for kind in choices if kind.__name__ == part]
        field = choices[0].model_fields.get(str(part))
        nested = tried or (list(_models_in(field.annotation)) if field else [])
        if not nested:
            break
        choices = nested
    return list(choices[0].model_fields)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the settings that a type allows: itself, or what it is a union of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
