"""The turns of a conversation, in either spelling: role and content, or from and value."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "tool": "tool",
}
"""Every name of a role that is understood, and the one that chat templates know."""
MAX_NAMES = 12  # so that a row with a thousand columns makes no message of a thousand names


class RowProblem(Exception):
    """What is wrong with one field of a row, and what to do about it."""

    def __init__(self, field: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field}: {problem}; {remedy}")
        self.field = field


def chat_of(value: Any, field: str, *, answered: bool = True) -> list[dict[str, Any]]:
    """Return the messages in the spelling of chat templates.

    Args:
        value: a list of {role, content} or {from, value}.
        field: how the row calls it.
        answered: whether there must be a turn of the assistant to learn.

    Raises:
        RowProblem: it is not such a list.
    """
    if not isinstance(value, list):
        raise RowProblem(
            field, f"is {kind_of_value(value)}, not a list of messages", "give [{role, content}]"
        )
    if not value:
        raise RowProblem(field, "is an empty list", "add messages or remove the row")
    messages = [_message(message, f"{field}[{i}]") for i, message in enumerate(value)]
    if answered and all(message["role"] != "assistant" for message in messages):
        raise RowProblem(field, "has no assistant message", "add the answer or remove the row")
    return messages


def _message(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowProblem(field, f"is {kind_of_value(value)}, not a message", "give {role, content}")
    # Tables give every message every column, null where it had none.
    given = {key: part for key, part in value.items() if part is not None}
    role_key = "from" if "from" in given and "role" not in given else "role"
    content_key = "value" if "value" in given and "content" not in given else "content"
    role = given.pop(role_key, None)
    if not isinstance(role, str) or role not in ROLES:
        raise RowProblem(
            f"{field}.{role_key}",
            "is missing" if role is None else f"is {_short(role)}",
            "use system, user, assistant or tool",
        )
    message = {"role": ROLES[role]}
    content = given.pop(content_key, None)
    # A turn that only calls tools says nothing.
    if content or not given.get("tool_calls"):
        if content is None and content_key not in value:
            raise RowProblem(f"{field}.{content_key}", "is missing", "add the text of the message")
        message["content"] = a_text(content, f"{field}.{content_key}")
    return message | given


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
            return f"the {'truth value' if isinstance(value, bool) else 'number'} {_short(value)}"
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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
