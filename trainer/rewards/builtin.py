"""The reward functions that are there by name. Standard library only."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

Completions = list[Any]
"""Texts, or lists of messages with `role` and `content`."""
TARGET_LENGTH = 200  # characters: a short paragraph
REASONED = r"\s*<think>.*?</think>\s*<answer>.*?</answer>\s*"


def text_of(completion: Any) -> str:
    """Return what an answer says, be it a text or messages."""
    if isinstance(completion, str):
        return completion
    return "".join(str(message.get("content") or "") for message in completion)


def exact_match(completions: Completions, answer: list[Any], **_: Any) -> list[float | None]:
    """Return 1 where the answer is the column `answer`, else 0; None where the row has none.

    Case, spaces around words and a full stop at the end do not matter. Where the model writes
    <answer> tags, what stands in them counts.
    """
    pairs = zip(completions, answer, strict=True)
    return [
        None if right is None else float(_plain(_final(text_of(said))) == _plain(str(right)))
        for said, right in pairs
    ]


def contains_answer(completions: Completions, answer: list[Any], **_: Any) -> list[float | None]:
    """Return 1 where the column `answer` occurs in the answer, as whole words, else 0.

    None where the row has none.
    """
    found: list[float | None] = []
    for said, right in zip(completions, answer, strict=True):
        if right is None:
            found.append(None)
            continue
        # Lookarounds instead of \b, which fails beside answers such as "-3" or "50%".
        words = re.escape(_plain(str(right)))
        found.append(float(bool(re.search(rf"(?<!\w){words}(?!\w)", _plain(text_of(said))))))
    return found


def length(
    completions: Completions, target_length: list[Any] | None = None, **_: Any
) -> list[float]:
    """Return 1 for an answer of at most the target's characters, less for a longer one.

    Twice the target gives 0, three times -1, which is the least. The target is the column
    `target_length`, 200 where there is none.
    """
    targets = target_length or [None] * len(completions)
    rewards = []
    for said, target in zip(completions, targets, strict=True):
        limit = float(target or TARGET_LENGTH)
        excess = max(0.0, len(text_of(said)) - limit)
        rewards.append(max(-1.0, 1.0 - excess / limit))
    return rewards


def follows_format(
    completions: Completions, pattern: list[Any] | None = None, **_: Any
) -> list[float]:
    """Return 1 where the whole answer matches the regular expression in the column `pattern`.

    Where there is none: <think> … </think> <answer> … </answer>.
    """
    patterns = pattern or [None] * len(completions)
    return [
        float(bool(re.fullmatch(wanted or REASONED, text_of(said).strip(), re.DOTALL)))
        for said, wanted in zip(completions, patterns, strict=True)
    ]


def valid_json(completions: Completions, **_: Any) -> list[float]:
    """Return 1 where the answer is a JSON object or list and nothing else, else 0."""
    return [float(_is_json(text_of(said))) for said in completions]


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def _final(text: str) -> str:
    tagged = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    # The last one: models think aloud, and correct themselves.
    return str(tagged[-1]) if tagged else text


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".")


FUNCTIONS: dict[str, Callable[..., Sequence[float | None]]] = {
    "contains_answer": contains_answer,
    "exact_match": exact_match,
    "format": follows_format,
    "json": valid_json,
    "length": length,
}
"""By their names in a job file; `trainer.config.rewards` says which columns each needs."""
