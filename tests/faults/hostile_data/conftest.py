"""A hostile machine, and where its files arrive."""

from __future__ import annotations

import pytest

from tests.faults.hostile import hostile_machine


@pytest.fixture
async def hostile(tmp_path):
    async with hostile_machine(tmp_path) as found:
        yield found


@pytest.fixture
def arriving(tmp_path):
    """The folder that an output arrives in."""
    return tmp_path / "here" / "arriving"
