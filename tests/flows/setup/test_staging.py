"""What a job names in an object store comes here once, whole, and is named when it is not there."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import boto3
import pytest
from typer.testing import CliRunner

from blocks.stores.opening import open_bucket
from flows.setup import staging
from flows.setup.staging import staged
from gateway.cli import app
from tests.clouds.store_wire import StoreFault
from tests.flows.flow_runs import EXAMPLES, make_job
from trainer.contract.errors import ConfigError, IntegrityError, StoreAway, StoreError

ROWS = EXAMPLES / "quickstart.jsonl"


@pytest.fixture(autouse=True)
def _at_home(home):
    """Fetch into a home of its own."""


async def put(address, folder):
    bucket = await open_bucket(address)
    for path in folder.rglob("*"):
        if path.is_file():
            await bucket.put(path.relative_to(folder).as_posix(), path.read_bytes())


def content(*parts: str) -> bytes:
    return Path(*parts).read_bytes()


def names_in(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def config(**dataset):
    return make_job(dataset=dataset, model="s3://models/base/tiny").training


async def test_datasets_and_a_model_come_here_once(s3):
    bucket = await open_bucket("s3://models/data")
    await bucket.put("rows.jsonl", ROWS.read_bytes())
    await bucket.put("more/train.jsonl", ROWS.read_bytes())
    await bucket.put("more/test.jsonl", ROWS.read_bytes())
    # As consoles make folders.
    boto3.client("s3").put_object(Bucket="models", Key="data/more/", Body=b"")
    await put("s3://models/base/tiny", EXAMPLES / "tiny-llama")
    asked = config(path="s3://models/data/rows.jsonl", eval_path="s3://models/data/more")

    found = await staged(asked)
    gets = s3.count("GET", "data|base")
    again = await staged(asked)

    assert content(found.dataset.path) == ROWS.read_bytes()
    assert found.dataset.path.endswith("/rows.jsonl")
    assert content(found.dataset.eval_path, "test.jsonl") == ROWS.read_bytes()
    assert names_in(found.dataset.eval_path) == ["test.jsonl", "train.jsonl"]
    assert content(found.model, "config.json")
    assert again == found
    assert s3.count("GET", r"rows|train|test|config\.json") <= gets


async def test_what_changed_there_is_fetched_anew(s3):
    bucket = await open_bucket("s3://models")
    await bucket.put("rows.jsonl", b"1\n")
    asked = make_job(dataset={"path": "s3://models/rows.jsonl"}).training
    first = await staged(asked)
    await bucket.put("rows.jsonl", b"2\n")

    second = await staged(asked)

    assert content(first.dataset.path) == b"1\n"
    assert content(second.dataset.path) == b"2\n"


async def test_an_artifact_of_ours_and_folders_as_consoles_make_them_come_here(s3):
    bucket = await open_bucket("s3://models/data")
    for name in ("MANIFEST.json", "part/rows.jsonl"):
        await bucket.put(name, ROWS.read_bytes())
    boto3.client("s3").put_object(Bucket="models", Key="data/part/", Body=b"")
    asked = make_job(dataset={"path": "s3://models/data"}).training

    found = await staged(asked)

    assert names_in(found.dataset.path) == ["MANIFEST.json", "part"]
    assert content(found.dataset.path, "part/rows.jsonl") == ROWS.read_bytes()


async def test_what_no_folder_can_hold_is_named(s3, monkeypatch):
    bucket = await open_bucket("s3://models")
    for name in ("data/part", "data/part/rows.jsonl"):
        await bucket.put(name, b"1")
    asked = make_job(dataset={"path": "s3://models/data"}).training

    with pytest.raises(ConfigError, match="'part' is an object, and there are others below it"):
        await staged(asked)
    monkeypatch.setattr(staging, "MAX_FILES", 1)
    with pytest.raises(ConfigError, match="there are 2 objects below it, and 1 is the most"):
        await staged(asked)


async def test_two_that_start_together_fetch_it_once(s3):
    bucket = await open_bucket("s3://models")
    await bucket.put("rows.jsonl", b"x" * 100_000)
    asked = make_job(dataset={"path": "s3://models/rows.jsonl"}).training

    first, second = await asyncio.gather(staged(asked), staged(asked))

    assert first == second
    assert s3.count("GET", "rows") == 1


async def test_what_changes_while_it_is_fetched_is_not_taken_for_what_it_was(s3, monkeypatch):
    bucket = await open_bucket("s3://models")
    await bucket.put("rows.jsonl", b"1\n")
    asked = make_job(dataset={"path": "s3://models/rows.jsonl"}).training
    fetch = staging._fetch

    async def meanwhile(*args):
        await bucket.put("rows.jsonl", b"2\n")
        await fetch(*args)

    monkeypatch.setattr(staging, "_fetch", meanwhile)

    with pytest.raises(StoreAway, match=r"rows\.jsonl changed while it was fetched"):
        await staged(asked)


async def test_what_was_broken_off_becomes_no_part_of_a_folder(s3):
    bucket = await open_bucket("s3://models/data")
    await bucket.put("rows.jsonl", b"x" * 100_000)
    asked = make_job(dataset={"path": "s3://models/data"}).training
    s3.faults.append(StoreFault("GET", "rows", cut_after=1000))
    s3.faults.append(StoreFault("GET", "rows", times=99, answer=s3.refused(403, "AccessDenied")))
    with pytest.raises(StoreError):
        await staged(asked)
    s3.faults.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: 1)  # another process goes on with it
        found = await staged(asked)

    assert names_in(found.dataset.path) == ["rows.jsonl"]


async def test_what_is_missing_is_named(s3):
    asked = make_job(dataset={"path": "s3://models/rows.jsonl"}).training

    with pytest.raises(
        ConfigError, match=r"dataset\.path = 's3://models/rows\.jsonl': there is no such"
    ):
        await staged(asked)
    s3.denied = {"HEAD", "GET"}
    with pytest.raises(StoreError, match=r"s3://models: cannot read rows\.jsonl"):
        await staged(asked)


async def test_a_line_that_breaks_leaves_nothing_half(s3):
    bucket = await open_bucket("s3://models")
    await bucket.put("rows.jsonl", b"x" * 100_000)
    asked = make_job(dataset={"path": "s3://models/rows.jsonl"}).training
    refused = s3.refused(403, "AccessDenied")
    s3.faults.append(StoreFault("GET", "rows", cut_after=1000))
    s3.faults.append(StoreFault("GET", "rows", times=99, answer=refused))

    with pytest.raises(StoreError):
        await staged(asked)
    s3.faults.clear()

    assert len(content((await staged(asked)).dataset.path)) == 100_000


async def test_a_store_that_is_away_holds_up_no_machine_that_is_paid_for(s3, monkeypatch):
    bucket = await open_bucket("s3://models")
    await bucket.put("rows.jsonl", b"1\n")
    asked = make_job(dataset={"path": "s3://models/rows.jsonl"}).training
    first = await staged(asked)
    monkeypatch.setattr("blocks.stores.bucket.SMALL_SECONDS", 0.2)
    busy = s3.refused(503, "SlowDown")
    s3.faults.append(StoreFault("HEAD", "rows", times=99, answer=busy))

    assert await staged(asked) == first


async def test_no_object_gets_out_of_its_folder(s3, monkeypatch):
    bucket = await open_bucket("s3://models")
    await bucket.put("data/x", b"1")
    found = staging.Bucket.entries

    async def hostile(self, prefix=""):
        [entry] = await found(self, prefix)
        return [type(entry)("data/../../evil", 1, entry.modified, "v")]

    monkeypatch.setattr(staging.Bucket, "entries", hostile)
    with pytest.raises(IntegrityError, match="not the name of a file inside"):
        await staged(make_job(dataset={"path": "s3://models/data"}).training)


async def test_validate_names_what_is_missing_before_anything_is_paid_for(s3, tmp_path):
    job = make_job(dataset={"path": "s3://models/none.jsonl"}).model_dump(mode="json")
    path = tmp_path / "job.json"
    path.write_text(json.dumps(job))

    found = await asyncio.to_thread(CliRunner().invoke, app, ["validate", str(path)])

    assert found.exit_code == 2, found.output
    assert (
        "training.dataset.path = 's3://models/none.jsonl': there is no such object" in found.output
    )
