"""What is wrong with a row, in words for people who write JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from trainer.contract.errors import DataError

MAX_NAMES = 12  # so that a row with a thousand columns makes no message of a thousand names


class RowProblem(Exception):
    """What is wrong with one field of a row, and what to do about it."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}; {remedy}")
        self.field = field


@contextmanager
def naming(data_set: str) -> Iterator[None]:
    """Let errors say which of several data sets they are about; one alone has no name."""
    try:
        yield
    except DataError as error:
        if not data_set:
            raise
        raise DataError(f"data set {data_set}: {error.message}", error.suggestion) from error


def a_text(value: Any, field: str) -> str:
    """Return `value` if it is text with something in it that can be written as UTF-8.

    Raises:
        RowProblem: it is not.
    """
    if not isinstance(value, str):
        remedy = "give the text or remove the row" if value is None else 'write it as "text"'
        raise RowProblem(field, f"is {kind_of_value(value)}, not a text", remedy)
    if not value or value.isspace():
        raise RowProblem(field, "is empty", "fill it or remove the row")
    try:
        # Python holds JSON such as "\ud83d" as half a character, and every tokenizer fails on it,
        # far from the row.
        value.encode()
    except UnicodeEncodeError as error:
        raise RowProblem(
            field,
            f"holds half of a surrogate pair at character {error.start + 1}",
            "write the whole character, such as \\ud83d\\ude00",
        ) from None
    return value


def kind_of_value(value: Any) -> str:
    """Return what `value` is in words for people who write JSON."""
    match value:
        case None:
            return "null"
        case bool() | int() | float():
            return f"the {'truth value' if isinstance(value, bool) else 'number'} {short(value)}"
        case str():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return f"a {type(value).__name__}"


def listed(names: Iterable[str]) -> str:
    """Return the names as people list them, not more than a dozen."""
    every = [repr(str(name)) for name in names]
    more = [f"{len(every) - MAX_NAMES} more"] if len(every) > MAX_NAMES else []
    return ", ".join(every[:MAX_NAMES] + more) or "no columns"


def short(value: Any) -> str:
    """Return a value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
