"""What the least policy of docs/aws.md permits: the local AWS permits nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "aws.md"


def least_policy() -> list[dict[str, Any]]:
    """Return the statements of the policy that the page shows."""
    [text] = re.findall(r"```json\n(\{.*?\})\n```", PAGE.read_text(), re.DOTALL)
    return json.loads(text)["Statement"]


def allowing(
    statements: list[dict[str, Any]], action: str, context: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the statement that permits an action, or None.

    Args:
        statements: of a policy.
        action: such as ec2:RunInstances.
        context: the condition keys of the request, such as aws:ResourceTag/managed-by.
    """
    for statement in statements:
        wanted = statement["Condition"]["StringEquals"] if "Condition" in statement else {}
        holds = all(context.get(key, "") in _listed(value) for key, value in wanted.items())
        if action in _listed(statement["Action"]) and holds:
            return statement
    return None


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]
