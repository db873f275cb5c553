"""The map of the house is true: the picture is the code's, and every path that is named exists."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`((?:[a-z_]+/)+(?:[a-z_]+\.py)?)`")


def drawing():
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "draw_architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_drawn_from_the_code_as_it_is():
    draw = drawing()

    assert draw.PICTURE.read_text() == draw.picture(), "run: python docs/draw_architecture.py"


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_every_path_that_the_pages_name_exists(page):
    roots = [ROOT, *(ROOT / name for name in ("flows", "trainer", "blocks"))]
    named = set(NAMED.findall((ROOT / page).read_text()))

    missing = [name for name in named if not any((root / name).exists() for root in roots)]

    assert len(named) > (20 if "architecture" in page else -1)
    assert missing == []
