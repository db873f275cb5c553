"""JSON in which every name of an object counts: of one that is there twice, Python would take the last."""

from __future__ import annotations

import json
from typing import Any


def loads(text: str) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: it is not JSON (`json.JSONDecodeError`), or says two things of one name.
        RecursionError: it is too deep.
    """
    return json.loads(text, object_pairs_hook=_each_once)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{json.dumps(twice, ensure_ascii=False)} is there twice in one object")
    return found
