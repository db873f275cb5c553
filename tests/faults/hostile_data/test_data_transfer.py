"""What comes from a machine torn, changed or flipped is not kept."""

from __future__ import annotations

import asyncio
import os
import random
import shutil

import pytest

from flows.streaming import checkpoint_mirror
from flows.streaming.checkpoint_mirror import CheckpointMirror
from flows.streaming.outputs import fetch_output
from tests.faults.hostile import WEIGHTS, flip
from tests.faults.hostile_data.data_trouble import MB
from tests.waiting import PATIENCE, until
from trainer.contract.checkpoints import NEEDED, OPTIMIZERS, check, newest_valid
from trainer.contract.errors import IntegrityError
from trainer.contract.manifest import verify, write_manifest

# 35: cut, changed, short.


@pytest.mark.thorough
@pytest.mark.fault(35, "download cut, file changes")
async def test_a_download_that_is_cut_at_random_bytes_goes_on_and_is_whole(hostile, arriving):
    size = 64 * MB
    hostile.write_output(size)
    chance = random.Random(35)  # noqa: S311 - the same every time
    fetching = asyncio.ensure_future(fetch_output(hostile.workplace, arriving))
    cuts: list[int] = []
    while not fetching.done() and len(cuts) < 6:
        cuts.append(chance.randrange(1, 16 * MB))
        hostile.proxy.cut_after(cuts[-1])
        await until(lambda: hostile.proxy._cut_at is None or fetching.done())

    await fetching

    assert len(cuts) == 6
    assert verify(arriving)["files"] == verify(hostile.output)["files"]
    # What is under way at a cut is lost; who begins anew would send all of sum(cuts) again.
    assert hostile.proxy.passed < size + 0.8 * sum(cuts)


@pytest.mark.thorough
@pytest.mark.fault(35, "download cut, file changes")
@pytest.mark.parametrize("change", ["other bytes", "shorter", "longer", "gone"])
async def test_a_file_that_changes_while_it_comes_is_not_kept(hostile, arriving, change):
    hostile.write_output(2 * MB)
    weights = hostile.output / WEIGHTS
    hostile.proxy.bytes_per_second = 2 * MB
    fetching = asyncio.ensure_future(fetch_output(hostile.workplace, arriving))
    await until(lambda: (arriving / f"{WEIGHTS}.part").exists())
    content = weights.read_bytes()

    match change:
        case "other bytes":
            weights.write_bytes(os.urandom(len(content)))
        case "shorter":
            os.truncate(weights, 1000)
        case "longer":
            weights.write_bytes(content + bytes(1000))
        case "gone":
            weights.unlink()
    hostile.proxy.cut()

    with pytest.raises(IntegrityError, match=WEIGHTS):
        await asyncio.wait_for(fetching, 60)
    assert not (arriving / WEIGHTS).exists()


# 36: one bit.


@pytest.mark.thorough
@pytest.mark.fault(36, "one bit flipped")
async def test_a_bit_that_flips_on_the_way_is_caught_and_fetched_again(hostile, arriving):
    hostile.write_output(2 * MB)
    hostile.proxy.flip(MB)

    await fetch_output(hostile.workplace, arriving)

    assert hostile.proxy._flip_at is None
    assert (arriving / WEIGHTS).read_bytes() == (hostile.output / WEIGHTS).read_bytes()


@pytest.mark.thorough
@pytest.mark.fault(36, "one bit flipped")
async def test_a_bit_that_flipped_on_the_machine_is_caught_and_the_file_not_kept(hostile, arriving):
    hostile.write_output()
    flip(hostile.output / WEIGHTS)

    with pytest.raises(IntegrityError, match=f"{WEIGHTS} arrived with another SHA-256"):
        await fetch_output(hostile.workplace, arriving)

    assert not (arriving / WEIGHTS).exists()


@pytest.mark.thorough
@pytest.mark.fault(36, "one bit flipped")
async def test_a_bit_that_flipped_here_meanwhile_is_put_right(hostile, arriving):
    hostile.write_output()
    await fetch_output(hostile.workplace, arriving)
    flip(arriving / WEIGHTS)

    await fetch_output(hostile.workplace, arriving)

    assert (arriving / WEIGHTS).read_bytes() == (hostile.output / WEIGHTS).read_bytes()


def write_checkpoint(folder, step):
    checkpoint = folder / f"checkpoint-{step}"
    checkpoint.mkdir(parents=True)
    for name in NEEDED | OPTIMIZERS[0] | {"model.safetensors", "rng_state.pth"}:
        (checkpoint / name).write_bytes(os.urandom(500))
    write_manifest(checkpoint, step=step)
    return checkpoint


@pytest.mark.thorough
@pytest.mark.fault(36, "one bit flipped")
async def test_a_flipped_checkpoint_is_never_kept_nor_resumed_from(hostile, tmp_path):
    there, here = hostile.workspace / "checkpoints", tmp_path / "checkpoints"
    mirror = CheckpointMirror(hostile.workplace, here)
    write_checkpoint(there, 10)
    await mirror.sync()
    flip(write_checkpoint(there, 20) / "optimizer.pt")
    await mirror.sync()
    write_checkpoint(there, 30)
    await mirror.sync()
    assert sorted(path.name for path in here.iterdir()) == ["checkpoint-10", "checkpoint-30"]

    flip(here / "checkpoint-30" / "model.safetensors")

    assert newest_valid(here)[0] == here / "checkpoint-10"


async def test_what_is_at_home_already_is_not_fetched_again(hostile, tmp_path):
    there, here = hostile.workspace / "checkpoints", tmp_path / "checkpoints"
    mirror = CheckpointMirror(hostile.workplace, here)
    for step in (10, 20):
        checkpoint = write_checkpoint(there, step)
        (checkpoint / "tokenizer").mkdir()
        (checkpoint / "tokenizer" / "words.json").write_bytes(b"the same words" * 100_000)
        write_manifest(checkpoint, step=step)
        await mirror.sync()

    first, second = (here / f"checkpoint-{step}" / "tokenizer" / "words.json" for step in (10, 20))
    assert first.samefile(second)
    check(here / "checkpoint-20")

    flip(first)
    write_checkpoint(there, 30)
    shutil.copytree(there / "checkpoint-20" / "tokenizer", there / "checkpoint-30" / "tokenizer")
    write_manifest(there / "checkpoint-30", step=30)
    await mirror.sync()

    third = here / "checkpoint-30" / "tokenizer" / "words.json"
    assert not third.samefile(second)  # that one has been damaged here meanwhile
    check(here / "checkpoint-30")


async def test_weights_that_came_home_in_a_checkpoint_are_not_fetched_with_the_output(
    hostile, arriving, tmp_path
):
    hostile.write_output(size=1 << 20)
    checkpoint = write_checkpoint(hostile.workspace / "checkpoints", 10)
    shutil.copy(hostile.output / WEIGHTS, checkpoint)
    write_manifest(checkpoint, step=10)
    here = tmp_path / "checkpoints"
    await CheckpointMirror(hostile.workplace, here).sync()

    fetched = await fetch_output(hostile.workplace, arriving, checkpoints=here)

    assert fetched == 0
    assert (arriving / WEIGHTS).read_bytes() == (hostile.output / WEIGHTS).read_bytes()


async def test_on_a_notice_the_newest_checkpoint_waits_for_no_older_one(
    hostile, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint_mirror, "LOOK_SECONDS", 0.05)
    there, here = hostile.workspace / "checkpoints", tmp_path / "checkpoints"
    hostile.workplace.notice_command = "sleep 600"
    fetch, begun = hostile.workplace.fetch, asyncio.Event()

    async def slow(name, local, *, limit=None):
        if "checkpoint-10" in name and name.endswith(".pt"):
            begun.set()
            await asyncio.Event().wait()
        return await fetch(name, local, limit=limit)

    monkeypatch.setattr(hostile.workplace, "fetch", slow)
    write_checkpoint(there, 10)
    sync = asyncio.ensure_future(CheckpointMirror(hostile.workplace, here).sync())
    await begun.wait()

    write_checkpoint(there, 20)
    (hostile.workspace / "notice.json").write_text("{}")

    await asyncio.wait_for(sync, PATIENCE)
    assert [path.name for path in here.iterdir() if path.name[0] != "."] == ["checkpoint-20"]
