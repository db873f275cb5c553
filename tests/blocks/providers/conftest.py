"""What the tests of every provider share."""

import pytest

from blocks.keys import MachineKeys
from tests.blocks.providers.rented_account import mark


@pytest.fixture
def key():
    return MachineKeys.ordered(mark()).public_key()
