"""What the tests of every provider share."""

import pytest
from rented_account import NAME

from blocks.keys import MachineKeys


@pytest.fixture
def key():
    return MachineKeys(NAME).public_key()
