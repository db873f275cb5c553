"""The page of promises names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "promises.md").read_text())


def test_every_row_names_a_test():
    rows = (ROOT / "docs" / "promises.md").read_text().partition("What cannot be")[0].splitlines()
    assert len(NAMED) == len([row for row in rows if row.startswith("| ")]) - 2


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_exists(file, name):
    tree = ast.parse((ROOT / file).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    assert name in {node.name for node in tree.body if isinstance(node, kinds)}
