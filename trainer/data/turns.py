"""The turns of a conversation, in either spelling: role and content, or from and value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.data.calls import calls_of, parsed
from trainer.data.problems import RowProblem, a_text, kind_of_value, short

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    "function_response": "tool",
    "function_call": "call",
    "tool_call": "call",
}
"""Every name of a role that is understood, in small letters, and the one that chat templates know.

A "call" is a turn of the assistant whose content is a call of a tool, as JSON.
"""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""What a turn's thoughts are called beside its content; the first is what we call them."""
START_OF_THOUGHTS, END_OF_THOUGHTS = "<think>", "</think>"
"""What stands around thoughts in a content."""
ONLY_TEXT = "only text is learned from, of a model that sees or hears by its language part"
"""What is said of a row with a picture, a film or a sound."""
WEIGHTS = ("weight", "train", "training", "loss")
"""What says of a turn whether it is learned; in messages we hand on it is the first."""
Message = dict[str, Any]


def chat_of(
    value: Any, field: str, *, answered: bool = True, roles: Mapping[str, str] | None = None
) -> list[Message]:
    """Return the messages in the spelling of chat templates.

    Args:
        value: a list of {role, content} or {from, value}; a table may hold it as JSON in a text.
        field: how the row calls it.
        answered: whether there must be a turn of the assistant to learn.
        roles: the dataset's further names for roles.

    Raises:
        RowProblem: it is not such a list.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = parsed(value, field, "[{role, content}]")
    if not isinstance(value, list):
        raise RowProblem(
            field, f"is {kind_of_value(value)}, not a list of messages", "give [{role, content}]"
        )
    if not value:
        raise RowProblem(field, "is an empty list", "add messages or remove the row")
    known = ROLES | {name.casefold(): ROLES[role] for name, role in (roles or {}).items()}
    found = [_message(message, f"{field}[{i}]", known) for i, message in enumerate(value)]
    # A system message without a word is none; some templates would put their own in its place.
    messages = [m for m in found if m["role"] != "system" or m["content"]]
    if answered and all(message["role"] != "assistant" for message in messages):
        raise RowProblem(field, "has no assistant message", "add the answer or remove the row")
    return messages


def weighed(
    messages: list[Message], field: str
) -> tuple[list[Message], frozenset[int], frozenset[int]]:
    """Return the messages without their weights, and which of the assistant's have 0 and which 1.

    Raises:
        RowProblem: none is left to learn.
    """
    weights = {i: m[WEIGHTS[0]] for i, m in enumerate(messages) if WEIGHTS[0] in m}
    plain = [{k: v for k, v in m.items() if k != WEIGHTS[0]} for m in messages]
    spoken = {i for i, message in enumerate(messages) if message["role"] == "assistant"}
    silent = frozenset(i for i in spoken if weights.get(i) is False)
    if spoken and spoken <= silent:
        raise RowProblem(
            field, "has weight 0 on every turn of the assistant", "give one 1, or remove the row"
        )
    return plain, silent, frozenset(i for i in spoken if weights.get(i) is True)


def _message(value: Any, field: str, roles: Mapping[str, str]) -> Message:
    if not isinstance(value, dict):
        raise RowProblem(field, f"is {kind_of_value(value)}, not a message", "give {role, content}")
    # Tables give every message every column, null where it had none.
    given = {key: part for key, part in value.items() if part is not None}
    role_key = "from" if "from" in given and "role" not in given else "role"
    content_key = "value" if "value" in given and "content" not in given else "content"
    role = _role(given.pop(role_key, None), f"{field}.{role_key}", roles)
    content = given.pop(content_key, None)
    message: Message = {"role": "assistant" if role == "call" else role}
    if role == "call":
        message |= {"content": "", "tool_calls": calls_of(content, f"{field}.{content_key}")}
    else:
        calls = given.pop("tool_calls", None) or given.pop("function_call", None)
        if calls:
            message["tool_calls"] = calls_of(calls, f"{field}.tool_calls")
        if content is None and content_key not in value and not calls:
            raise RowProblem(f"{field}.{content_key}", "is missing", "add the text of the message")
        message |= _said(content, f"{field}.{content_key}", message)
    for name in THOUGHTS:
        if thoughts := given.pop(name, None):
            message[THOUGHTS[0]] = a_text(thoughts, f"{field}.{name}")
    if (learned := _weight(given, field, message["role"])) is not None:
        message[WEIGHTS[0]] = learned
    return message | given


def _role(role: Any, field: str, roles: Mapping[str, str]) -> str:
    known = roles.get(role.strip().casefold()) if isinstance(role, str) else None
    if known is None:
        raise RowProblem(
            field,
            "is missing" if role is None else f"is {short(role)}",
            "use system, user, assistant or tool, or say in dataset.roles which of them it is",
        )
    return known


def _said(content: Any, field: str, message: Message) -> Message:
    """Return `content` as a text, and the thoughts where it is a list with thoughts among it."""
    thoughts = ""
    if isinstance(content, list):
        content, thoughts = _joined(content, field)
    found = {THOUGHTS[0]: thoughts} if thoughts else {}
    # A turn that only calls tools says nothing, and a tool may have nothing to say.
    may_be_empty = message["role"] in {"system", "tool"} or "tool_calls" in message
    if may_be_empty and (content is None or (isinstance(content, str) and not content.strip())):
        return {"content": "", **found}
    return {"content": a_text(content, field), **found}


def _joined(parts: list[Any], field: str) -> tuple[str, str]:
    """Return the texts and the thoughts of a content that is a list of parts."""
    texts: list[str] = []
    thoughts: list[str] = []
    for i, part in enumerate(parts):
        kind = part.get("type", "text") if isinstance(part, dict) else "text"
        text = part.get(kind, part.get("text")) if isinstance(part, dict) else part
        if kind in THOUGHTS and isinstance(text, list):
            text = _joined(text, f"{field}[{i}].{kind}")[0]
        if kind in {"text", *THOUGHTS} and isinstance(text, str):
            (texts if kind == "text" else thoughts).append(text)
        else:
            raise RowProblem(
                f"{field}[{i}]",
                f"is {kind_of_value(part)} of the type {short(kind)}, and {ONLY_TEXT}",
                "give {type: text, text: …}, or remove the row",
            )
    return "".join(texts), "".join(thoughts)


def _weight(given: Message, field: str, role: str) -> bool | None:
    """Take what says whether a turn is learned out of it, and return it."""
    found = None
    for name in WEIGHTS:
        if name not in given:
            continue
        value = given.pop(name)
        if value not in (0, 1):  # True and False are 1 and 0, too
            raise RowProblem(
                f"{field}.{name}", f"is {short(value)}", "write 1 or 0: a turn is learned or not"
            )
        if value and role != "assistant":
            raise RowProblem(
                f"{field}.{name}",
                f"is {short(value)} on a turn of the {role}, and only the assistant's are learned",
                "remove it",
            )
        found = bool(value)
    return found
