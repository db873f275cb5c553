"""A mirror has every byte that the machine has, or it is said what is missing."""

from __future__ import annotations

import pytest

from blocks.machines.local import LocalMachine
from blocks.workplaces.machine import MachineWorkplace
from flows.streaming import file_mirror
from flows.streaming.file_mirror import fetch_rest, missing


@pytest.fixture
def mirror(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "train.log").write_bytes(b"one\ntwo\nthree\n")
    mirror = tmp_path / "train.log"
    mirror.write_bytes(b"one\ntw")
    return mirror


async def test_the_rest_is_fetched_from_where_the_mirror_ends(mirror, tmp_path):
    sizes = {mirror: 14}
    assert missing(sizes) == "not all came home of train.log: 6 of 14 bytes"

    assert await fetch_rest(MachineWorkplace(LocalMachine(), str(tmp_path / "there")), sizes)

    assert mirror.read_bytes() == b"one\ntwo\nthree\n"
    assert missing(sizes) == ""


async def test_a_machine_that_claims_more_than_it_has_is_not_waited_for(
    mirror, tmp_path, monkeypatch
):
    monkeypatch.setattr(file_mirror, "MISSING_SECONDS", 0.3)
    sizes = {mirror: 10**12, tmp_path / "events.jsonl": None}

    assert not await fetch_rest(MachineWorkplace(LocalMachine(), str(tmp_path / "there")), sizes)

    assert missing(sizes) == "not all came home of train.log: 14 of 1000000000000 bytes"
