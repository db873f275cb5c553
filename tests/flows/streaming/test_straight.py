"""What lies in a store gets to the machine straight from there; what it cannot fetch, from here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from blocks.machines.local import LocalMachine
from blocks.stores.opening import open_bucket
from blocks.workplaces.machine import MachineWorkplace
from flows.setup.shipping import ship
from flows.setup.staging import staged
from flows.streaming import carrying, straight
from tests.clouds.store_wire import StoreFault
from tests.flows.flow_runs import EXAMPLES, make_job

ROWS = EXAMPLES / "quickstart.jsonl"
SIGNED = "X-Amz-Signature"


@pytest.fixture(autouse=True)
def _in_a_hurry(home, monkeypatch):
    monkeypatch.setattr(carrying, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(straight, "WORTH_BYTES", 1)


@pytest.fixture
async def asked(s3):
    """Put data and a model into the store, and return what names them."""
    await (await open_bucket("s3://models/data")).put("rows.jsonl", ROWS.read_bytes())
    bucket = await open_bucket("s3://models/base/tiny")
    for path in (EXAMPLES / "tiny-llama").iterdir():
        await bucket.put(path.name, path.read_bytes())
    data = {"path": "s3://models/data/rows.jsonl"}
    return make_job(dataset=data, model="s3://models/base/tiny").training


@pytest.fixture
def uploads(monkeypatch):
    """Note the names of what is uploaded."""
    names, upload = [], LocalMachine.upload

    async def noted(machine, local, remote):
        if local.name != "copy":  # by which small files are written
            names.append(local.name)
        return await upload(machine, local, remote)

    monkeypatch.setattr(LocalMachine, "upload", noted)
    return names


async def shipped(asked, folder):
    (folder / "jobs/one").mkdir(parents=True)
    workplace = MachineWorkplace(LocalMachine(), str(folder / "jobs/one"))
    here = await staged(asked)
    by = straight.straight(asked, here, workplace, sys.executable)
    return here, await ship(workplace, here, print, by)


def content(*parts):
    return Path(*parts).read_bytes()


def names_in(folder):
    return {path.name for path in Path(folder).iterdir()}


def signed(s3):
    return {one.path.rpartition("/")[2] for one in s3.asked if SIGNED in one.target}


async def test_data_and_model_are_fetched_by_the_machine_itself(s3, asked, uploads, tmp_path):
    here, there = await shipped(asked, tmp_path / "machine")

    assert uploads == []
    assert content(there.dataset.path) == ROWS.read_bytes()
    assert there.dataset.path.startswith(str(tmp_path / "machine/data"))
    files = names_in(there.model)
    assert files > {"config.json", "tokenizer.json"}
    for name in files:
        assert content(there.model, name) == content(here.model, name)
    assert signed(s3) == {"rows.jsonl", *files}
    # What permitted it is gone, and nothing is left on its way.
    left = [path for path in (tmp_path / "machine/jobs").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["courier.log"]


async def test_what_changed_in_the_store_is_uploaded_as_it_was_checked(
    s3, asked, uploads, tmp_path, monkeypatch
):
    bucket, whole = await open_bucket("s3://models/data"), ROWS.read_bytes()
    found_at = straight.found_at

    async def changed(field, url):
        await bucket.put("rows.jsonl", whole[::-1])
        return await found_at(field, url)

    monkeypatch.setattr(straight, "found_at", changed)

    _, there = await shipped(asked, tmp_path / "machine")

    assert uploads == ["rows.jsonl"]
    assert content(there.dataset.path) == whole


@pytest.mark.thorough
async def test_a_store_that_refuses_the_machine_costs_no_job(s3, asked, uploads, tmp_path):
    here = await staged(asked)  # before it refuses
    refused = s3.refused(403, "AccessDenied")
    s3.faults.append(StoreFault("GET", "rows|base", 99, refused))
    assert here.model

    _, there = await shipped(asked, tmp_path / "machine")

    assert "rows.jsonl" in uploads
    assert "config.json" in uploads
    assert content(there.dataset.path) == ROWS.read_bytes()
