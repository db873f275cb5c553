"""The names of GPUs: every provider spells them in its own way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache


def matches(wanted: Sequence[str], *names: str | None) -> bool:
    """Return whether one of the names bears one of those wanted; wanting none takes any.

    A part of a name will do, upper case and lower case, spaces, dashes and underscores are the
    same: `rtx4090` is found in "NVIDIA GeForce RTX 4090". It must not end within a number or
    begin within a word: `A10` is not in "A100", `H200` not in "GH200", `L4` not in "L40S".
    """
    return not wanted or any(
        _pattern(part).search(name) for part in wanted for name in names if name
    )


@cache
def _pattern(part: str) -> re.Pattern[str]:
    # Spelled without separators, and any separators are allowed between two characters.
    characters = re.sub(r"[\s_-]", "", part).lower()
    spelled = r"[\s_-]*".join(map(re.escape, characters))
    before = _same_kind(characters[:1])
    # A name that ends in a digit must not be followed by one. "(?!)" never matches, and so forbids
    # nothing after a letter.
    after = "[0-9]" if characters[-1:].isdigit() else "(?!)"
    return re.compile(rf"(?<!{before}){spelled}(?!{after})", re.IGNORECASE)


def _same_kind(character: str) -> str:
    return "[0-9]" if character.isdigit() else "[A-Za-z]"
