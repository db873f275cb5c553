"""What the tests of every provider share."""

import pytest

from blocks.keys import MachineKeys
from tests.blocks.providers.rented_account import NAME


@pytest.fixture
def key():
    return MachineKeys(NAME).public_key()
