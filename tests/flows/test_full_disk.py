"""A disk that is full delays what is written, and loses nothing of it."""

from __future__ import annotations

import json
import os
from uuid import uuid4

import pytest

from blocks.home import HOME_VARIABLE
from blocks.models import Offer
from flows.full_disk import save_again, save_anyway, unsaved
from flows.renting.journal import Journal
from flows.run_folder import RunFolder
from tests.faults.disk import fill, mount, unmount

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it mounts a small disk")


@pytest.fixture
def disk(tmp_path):
    """Give a full disk with a file of a few bytes on it."""
    folder = tmp_path / "disk"
    mount(folder, "64k")
    (folder / "record.json").write_text('{"old": true}')
    (folder / "installation").write_text("0123abcd")
    fill(folder)
    yield folder
    unmount(folder)


def test_a_record_is_written_over_within_the_room_that_it_has(disk):
    save_anyway(disk / "record.json", {"new": 1})

    assert json.loads((disk / "record.json").read_text()) == {"new": 1}
    assert unsaved(disk / "record.json") is None


def test_a_record_that_needs_more_room_is_kept_and_written_when_there_is_some(disk):
    record = {"long": "x" * 5000}

    save_anyway(disk / "record.json", record)
    assert json.loads((disk / "record.json").read_text()) == {"old": True}
    assert unsaved(disk / "record.json") == record

    (disk / "filler").unlink()
    save_again()
    assert json.loads((disk / "record.json").read_text()) == record
    assert unsaved(disk / "record.json") is None


def test_nothing_is_hired_that_cannot_be_noted(disk, monkeypatch):
    monkeypatch.setenv(HOME_VARIABLE, str(disk))
    journal = Journal.of(RunFolder(uuid4()))
    offer = Offer(provider="runpod", instance_type="L4", region="X", price_per_hour=1.0)

    with pytest.raises(OSError, match="nothing is hired that cannot be noted"):
        journal.begin(offer, "runpod")

    (disk / "filler").unlink()
    save_again()
    assert journal.hires == Journal.of(journal.run).hires == []
