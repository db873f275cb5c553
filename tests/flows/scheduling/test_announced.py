"""What a worker announces of its computer is read again elsewhere, however much it is."""

from __future__ import annotations

import json
import math

import pytest

from flows.scheduling.announced import MOST, _packed, _unpacked
from flows.scheduling.pool import PoolGpu, PoolMachine


def machine(count: int, uuid: str = "GPU-{}", **more) -> PoolMachine:
    gpus = tuple(
        PoolGpu(uuid=uuid.format(n), vram_gb=24.0, kind="NVIDIA L4", index=n, island="0")
        for n in range(count)
    )
    return PoolMachine(name="host", gpus=gpus, **more)


def test_a_machine_is_read_as_it_was_announced():
    host = machine(3, ram_gb=64.0, cpu_jobs=3, total=4)
    assert _unpacked(json.loads(json.dumps(_packed(host)))) == host
    assert math.isinf(_unpacked(_packed(host)).disk_gb)


@pytest.mark.parametrize("count", [0, 16, 56, 1000])
def test_a_machine_of_any_size_fits_into_a_variable(count):
    value = _packed(machine(count, "MIG-12345678-1234-1234-1234-{:012}"))
    assert len(json.dumps(value)) <= MOST
    assert _unpacked(value).has_gpus is (count > 0)


@pytest.mark.parametrize("value", [{}, {"name": "a"}, {"name": "a", "gpus": 3, "kinds": []}])
def test_nonsense_is_no_machine(value):
    assert _unpacked(value) is None
