"""Model and data from this computer to the machine: once, whole, and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from blocks.machines.local import LocalMachine
from blocks.workplaces import delivery
from flows.setup import files_here
from flows.setup.shipping import ship
from tests.flows.setup.shipping import ROWS, at, at_work, config, files_below
from tests.flows.sshd import over_ssh
from tests.waiting import PATIENCE
from trainer.config import TrainingConfig
from trainer.contract.errors import ConfigError, DataError, IntegrityError, ModelNotFound
from trainer.data.reading import open_training


class Watched(LocalMachine):
    """Notes what is uploaded, and may do something before and after each."""

    def __init__(self, before=None, after=None):
        self.uploaded = []
        self.before = before
        self.after = after

    async def upload(self, local, remote):
        if self.before:
            await self.before(local, remote)
        transfer = await super().upload(local, remote)
        self.uploaded.append(local.name)
        if self.after:
            await self.after(local, remote)
        return transfer


def write(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def files_below_key(base, place):
    prefix = Path(place).relative_to(base)
    return [str(prefix / name) for name in files_below(place)]


async def test_names_on_the_hub_and_paths_of_the_machine_stay_as_they_are(base):
    given = config(model="/data/models/big", data="org/data")

    assert await ship(at_work(LocalMachine(), base), given, print) == given


async def test_what_trains_arrives_and_what_does_not_stays_here(base, model, rows):
    there = await ship(at_work(LocalMachine(), base), config(model, rows), print)

    key = hashlib.sha256(ROWS).hexdigest()[:16]
    assert there.dataset.path == f"{base}/data/{key}/rows.jsonl"
    assert at(there.dataset.path) == ROWS
    assert files_below(there.model) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert there.model.startswith(f"{base}/data/")
    assert [name for name in files_below(base) if name.startswith("data/.")] == []


async def test_a_saved_dataset_arrives_as_one(base, tmp_path):
    table = pa.table({"text": ["a", "b"]})
    for split in ("train", "test"):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        with pa.ipc.new_stream(str(folder / "data.arrow"), table.schema) as writer:
            writer.write_table(table)
        (folder / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')

    there = await ship(at_work(LocalMachine(), base), config(data=tmp_path / "saved"), print)

    assert [row.value["text"] for row in open_training(there.dataset).rows()] == ["a", "b"]


async def test_every_data_set_of_a_mix_arrives(base, rows, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_bytes(ROWS * 2)
    mix = [{"path": str(rows), "eval_path": str(other)}, "org/data", {"path": str(other)}]
    given = TrainingConfig.model_validate({"model": "org/model", "dataset": mix})

    there = (await ship(at_work(LocalMachine(), base), given, print)).dataset

    assert at(there.sources[0].path) == ROWS
    assert at(there.sources[0].eval_path or "") == at(there.sources[2].path) == ROWS * 2
    assert there.sources[1].path == "org/data"
    assert there.names() == given.dataset.names()
    assert there.sources[0].path.startswith(f"{base}/data/")


async def test_random_weights_need_no_weights_from_here(base, model):
    there = await ship(
        at_work(LocalMachine(), base), config(model, init="random", peft=None), print
    )

    assert files_below(there.model) == ["config.json", "tokenizer.json"]


async def test_of_a_folder_of_data_goes_what_the_trainer_reads(base, tmp_path):
    folder = tmp_path / "rows"
    (folder / "more").mkdir(parents=True)
    (folder / ".cache").mkdir()
    for name in ("a.jsonl", "more/b.jsonl", "notes.md", ".cache/c.jsonl"):
        (folder / name).write_bytes(ROWS)

    there = await ship(at_work(LocalMachine(), base), config(data=folder), print)

    assert files_below(there.dataset.path) == ["a.jsonl", "more/b.jsonl"]


async def test_what_is_there_is_not_sent_again_even_under_another_path(base, model, tmp_path):
    await ship(at_work(LocalMachine(), base), config(model), print)
    moved = tmp_path / "elsewhere" / "model"
    shutil.copytree(model, moved)
    machine, log = Watched(), []

    await ship(at_work(machine, base), config(moved), log.append)

    assert machine.uploaded == []
    assert log == [f"training.model {moved} is on the machine already"]


async def test_an_interrupted_upload_goes_on_with_the_missing_files(base, model):
    for number in range(6):
        (model / f"more-{number}.json").write_text(str(number))
    stuck = asyncio.Event()

    async def hang(_local, _remote):
        if len(first.uploaded) >= 3:
            stuck.set()
            await asyncio.Event().wait()

    first = Watched(before=hang)
    running = asyncio.create_task(ship(at_work(first, base), config(model), print))
    await stuck.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    second = Watched()
    there = await ship(at_work(second, base), config(model), print)

    assert len(first.uploaded) >= 3
    assert not set(first.uploaded) & set(second.uploaded)
    assert len(files_below(there.model)) == 9


async def test_a_staged_file_that_was_spoilt_is_sent_again(base, model):
    async def spoil_and_fail(_local, remote):
        write(remote, b"spoilt")
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await ship(at_work(Watched(after=spoil_and_fail), base), config(model), print)
    there = await ship(at_work(LocalMachine(), base), config(model), print)

    assert at(f"{there.model}/config.json") == b"config.json"


async def test_two_at_once_do_not_spoil_each_other(base, model):
    places = await asyncio.gather(
        *(ship(at_work(LocalMachine(), base), config(model), print) for _ in range(3))
    )

    assert len({place.model for place in places}) == 1
    assert files_below(base) == files_below_key(base, places[0].model)


async def test_a_file_that_changes_meanwhile_is_refused(base, rows):
    async def append(local, _remote):
        write(local, ROWS * 2)

    with pytest.raises(ConfigError, match=r"rows\.jsonl changed while it was uploaded"):
        await ship(at_work(Watched(before=append), base), config(data=rows), print)

    assert [name for name in files_below(base) if "rows" in name] == []
    there = await ship(at_work(LocalMachine(), base), config(data=rows), print)
    assert at(there.dataset.path) == ROWS * 2


async def test_a_file_that_vanishes_meanwhile_is_refused(base, rows):
    async def remove(local, _remote):
        os.unlink(local)  # noqa: PTH108

    with pytest.raises(ConfigError, match="changed while it was uploaded"):
        await ship(at_work(Watched(before=remove), base), config(data=rows), print)


async def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_followed(base, model, rows):
    (model / "added_tokens.json").symlink_to("config.json")
    there = await ship(at_work(LocalMachine(), base), config(model), print)
    assert at(f"{there.model}/added_tokens.json") == b"config.json"

    (model / "stolen.json").symlink_to(rows)
    with pytest.raises(ConfigError, match=r"stolen\.json is a link to .* outside"):
        await ship(at_work(LocalMachine(), base), config(model), print)


async def test_a_snapshot_of_the_hubs_cache_may_link_to_its_blobs(base, tmp_path):
    repository = tmp_path / "models--org--tiny"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    (repository / "blobs" / "1").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/1")

    there = await ship(at_work(LocalMachine(), base), config(snapshot), print)

    assert at(f"{there.model}/config.json") == b"{}"


async def test_what_cannot_be_sent_is_refused_by_name(base, model):
    os.mkfifo(model / "pipe.json")
    with pytest.raises(ConfigError, match=r"pipe\.json is not a regular file"):
        await ship(at_work(LocalMachine(), base), config(model), print)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"data": "./rows.jsonl"}, DataError),
        ({"data": "missing.csv"}, DataError),
        ({"model": "./missing"}, ModelNotFound),
    ],
)
async def test_a_relative_path_to_nowhere_is_refused_before_the_machine_sees_it(base, given, kind):
    with pytest.raises(kind, match=r"missing|rows\.jsonl"):
        await ship(at_work(LocalMachine(), base), config(**given), print)


async def test_a_big_file_is_hashed_once_and_its_progress_is_told(base, rows, monkeypatch):
    monkeypatch.setattr(files_here, "WORTH_NOTING", 1)
    monkeypatch.setattr(delivery, "BIG", 1)
    monkeypatch.setattr(delivery, "REPORT_SECONDS", 0.01)
    told, log = asyncio.Event(), []

    def note(line):
        log.append(line)
        if " of 0 MB" in line:
            told.set()

    async def slowly(_local, remote):
        write(f"{remote}.part", ROWS[:5])
        await asyncio.wait_for(told.wait(), PATIENCE)

    await ship(at_work(Watched(before=slowly), base), config(data=rows), note)
    monkeypatch.setattr(files_here, "sha256_of", None)  # whoever calls it now fails
    await ship(at_work(LocalMachine(), base), config(data=rows), note)

    assert "rows.jsonl: 0 of 0 MB" in log
    assert log[-1].endswith("is on the machine already")


async def test_a_changed_file_is_hashed_anew(base, rows, monkeypatch):
    monkeypatch.setattr(files_here, "WORTH_NOTING", 1)
    first = await ship(at_work(LocalMachine(), base), config(data=rows), print)
    rows.write_bytes(ROWS.replace(b"one", b"uno"))

    second = await ship(at_work(LocalMachine(), base), config(data=rows), print)

    assert first.dataset.path != second.dataset.path
    assert b"uno" in at(second.dataset.path)


async def test_a_copy_that_arrives_spoilt_is_not_taken(base, rows):
    class Spoiling(LocalMachine):
        async def upload(self, local, remote):
            raise IntegrityError(f"{remote} did not arrive as {local} is, twice.")

    with pytest.raises(IntegrityError):
        await ship(at_work(Spoiling(), base), config(data=rows), print)

    assert [name for name in files_below(base) if "rows" in name] == []


async def test_over_ssh_it_arrives_and_is_found_there_again(tmp_path, model, rows):
    log = []
    async with over_ssh(tmp_path) as (machine, base):
        there = await ship(at_work(machine, base), config(model, rows), log.append)
        again = await ship(at_work(machine, base), config(model, rows), log.append)

    assert there == again
    assert at(there.dataset.path) == ROWS
    assert files_below(there.model) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert sum(line.startswith("uploading") for line in log) == 2
