"""Tools that may be called, and calls of them, in every spelling that rows have: one for templates.

Chat templates know {"type": "function", "function": {"name": …, "arguments": {…}}}. OpenAI writes the
arguments as a text that holds JSON, others leave the outer object out.
"""

from __future__ import annotations

import json
from typing import Any

from trainer.data.json_text import loads
from trainer.data.problems import RowProblem, kind_of_value

CALL = '{"name": "…", "arguments": {…}}'
TOOL = '{"type": "function", "function": {"name": "…", "parameters": {…}}}'


def tools_of(value: Any, field: str) -> list[dict[str, Any]]:
    """Return the tools that a row offers, from a list or from a text that holds one as JSON.

    Raises:
        RowProblem: it is neither.
    """
    return [
        _whole(each, place, TOOL)
        for place, each in _each(parsed(value, field, f"a list of {TOOL}"), field)
    ]


def calls_of(value: Any, field: str) -> list[dict[str, Any]]:
    """Return the calls of a turn, their arguments as objects.

    Args:
        value: one call, or a list of them; or a text that holds either as JSON.
        field: how the row calls it.

    Raises:
        RowProblem: they are not calls.
    """
    found = []
    for place, each in _each(parsed(value, field, CALL), field):
        call = _whole(each, place, CALL)
        name = f"{place}.function.arguments" if "function" in each else f"{place}.arguments"
        given = call["function"].get("arguments")
        arguments = parsed(given, name, "an object") if given not in (None, "") else {}
        if not isinstance(arguments, dict):
            raise RowProblem(name, f"is {kind_of_value(arguments)}", "give an object")
        found.append({**call, "function": {**call["function"], "arguments": arguments}})
    return found


def parsed(value: Any, field: str, wanted: str) -> Any:
    """Return what a text holds as JSON, and everything else as it is.

    Raises:
        RowProblem: it is a text that is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return loads(value)
    except (json.JSONDecodeError, RecursionError):
        raise RowProblem(field, "is a text that is not JSON", f"give {wanted}") from None
    except ValueError as error:
        why = f"is JSON that cannot be read: {error}"
        raise RowProblem(field, why, "say each thing once") from None


def with_texts(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message whose calls have their arguments as a text, for templates that put it in."""
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message


def _each(value: Any, field: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(field, value)]
    if not isinstance(value, list):
        raise RowProblem(field, f"is {kind_of_value(value)}", "give a list of objects")
    return [(f"{field}[{i}]", each) for i, each in enumerate(value)]


def _whole(value: Any, field: str, wanted: str) -> dict[str, Any]:
    """Return a tool or a call with its outer object."""
    if not isinstance(value, dict):
        raise RowProblem(field, f"is {kind_of_value(value)}", f"give {wanted}")
    whole = value if "function" in value else {"type": "function", "function": value}
    inner = whole["function"]
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise RowProblem(field, "names no function", f"give {wanted}")
    return {"type": "function", **whole}
