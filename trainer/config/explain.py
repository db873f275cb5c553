"""Turn pydantic's validation errors into one message a person can act on."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from trainer.contract.errors import ConfigError

MAX_PROBLEMS = 20
_ORDER = re.compile(r"^\w+ should ")  # "Input should be", "String should have"
_CHOICE = re.compile(r"literal\[|list\[|str$|function-after\[|[A-Z]\w*Config$")
ELSEWHERE = dict.fromkeys(("weight", "ratio", "proportion", "probability", "prob"), "share")
"""What other projects call a field of ours, where the words are not alike."""
_FIRST_WORD = re.compile(r"[a-z_]+(?:\.[a-z_]+)*")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field."""

    place: str
    """The field, as a path such as training.model; empty: it is about several."""
    text: str
    """The field, its value and the remedy, in a sentence."""


def faults(model: type[BaseModel], value: dict[str, Any]) -> list[Fault]:
    """Return everything that is wrong with a `model`, each with the field to which it belongs."""
    try:
        model.model_validate(value)
    except ValidationError as error:
        return _joined(_problems(model, error))
    return []


def place_in(model: type[BaseModel], text: str, below: str = "") -> str:
    """Return the field that a sentence begins with, as a path; empty: with none.

    Args:
        model: whose fields.
        text: the sentence.
        below: the path of the settings that it speaks of, where these are not all.
    """
    word = _FIRST_WORD.match(text)
    parts = [part for part in (below, word[0] if word else "") if part]
    path = ".".join(parts).split(".")
    is_field = word is not None and path[-1] in _fields_at(model, tuple(path[:-1]))
    return ".".join(path) if is_field else ""


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
        problems = [fault.text for fault in _joined(_problems(model, error))]
        if len(problems) > MAX_PROBLEMS:
            # A whole file of the wrong kind has a problem in every line.
            problems[MAX_PROBLEMS:] = [f"and {len(problems) - MAX_PROBLEMS} more"]
        shown = "; ".join(problems)
        # from None: the traceback of pydantic would say the same once more, and worse.
        end = "" if shown.endswith("?") else "."
        raise ConfigError(f"{source}: {shown}{end}", remedy) from None


def _joined(problems: Iterable[Fault]) -> list[Fault]:
    """Return one fault for a value of none of the types that a field may have; pydantic has one for each."""
    found: dict[str, Fault] = {}
    for problem in problems:
        head, _, order = problem.text.partition(": must ")
        is_another = order and head in found
        text = f"{found[head].text}, or {order}" if is_another else problem.text
        found[head] = Fault(problem.place, text)
    return list(found.values())


def _problems(model: type[BaseModel], error: ValidationError) -> Iterator[Fault]:
    for problem in error.errors(include_url=False):
        where = ".".join(str(part) for part in problem["loc"] if not _is_choice(part))
        given = problem.get("input")
        match problem["type"]:
            case "missing":
                yield Fault(where, f"{where} is missing")
            case "extra_forbidden":
                yield Fault(where, f"{where} is not a field{_did_you_mean(model, problem['loc'])}")
            case "value_error":
                # Rules about several fields get the whole job as input, and name their field
                # themselves.
                of_many = isinstance(given, BaseModel | dict)
                shown = "" if of_many else f" = {_short(given)}"
                said = str(problem["ctx"]["error"])
                place = place_in(model, said, where) or where if of_many else where
                yield Fault(place, f"{where}{shown}: {said}".removeprefix(": "))
            case _:
                text = f"{where} = {_short(given)}: {_ORDER.sub('must ', problem['msg'])}"
                yield Fault(where, text)


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
