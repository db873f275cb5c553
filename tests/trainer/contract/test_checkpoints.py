"""Checkpoints: whole or not there, and the newest whole one is never removed."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.contract import checkpoints
from trainer.contract.errors import IntegrityError
from trainer.contract.manifest import MANIFEST, verify, write_manifest

FILES = ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth")


def stage(folder: Path, step: int) -> Path:
    staged = folder / checkpoints.STAGING / f"checkpoint-{step}"
    staged.mkdir(parents=True)
    for name in FILES:
        (staged / name).write_bytes(f"{name} of {step}".encode() * 9)
    (staged / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return staged


def save(folder: Path, *steps: int) -> list[Path]:
    return [checkpoints.commit(stage(folder, step), folder) for step in steps]


def steps_in(folder: Path) -> list[int]:
    return [checkpoints.step_of(path) for path in checkpoints.all_checkpoints(folder)]


def test_a_committed_checkpoint_holds(tmp_path):
    staged = stage(tmp_path, 5)
    (staged / "training_args.bin").write_bytes(b"a pickle")
    (staged / "README.md").write_text("a model card")

    saved = checkpoints.commit(staged, tmp_path)

    assert saved == tmp_path / "checkpoint-5"
    assert verify(saved)["step"] == 5
    assert {path.name for path in saved.iterdir()} == {*FILES, "trainer_state.json", MANIFEST}
    assert not staged.exists()


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    save(tmp_path, 5)
    (tmp_path / "checkpoint-5" / FILES[0]).write_bytes(b"damaged")

    save(tmp_path, 5)

    newest, rejected = checkpoints.newest_valid(tmp_path)
    assert (newest, rejected) == (tmp_path / "checkpoint-5", {})


def test_newest_is_by_number_not_by_name(tmp_path):
    save(tmp_path, 9, 100, 20)

    assert steps_in(tmp_path) == [100, 20, 9]
    assert checkpoints.newest_valid(tmp_path) == (tmp_path / "checkpoint-100", {})


@pytest.mark.parametrize("name", [".saving", "checkpoint-", "checkpoint-5.old", "tmp-checkpoint-5"])
def test_other_names_are_no_checkpoints(tmp_path, name):
    (tmp_path / name).mkdir()

    assert checkpoints.newest_valid(tmp_path) == (None, {})


def test_without_a_folder_there_is_no_checkpoint(tmp_path):
    assert checkpoints.newest_valid(tmp_path / "missing") == (None, {})


def test_what_a_crash_left_in_the_staging_folder_is_ignored(tmp_path):
    save(tmp_path, 4)
    write_manifest(stage(tmp_path, 8), step=8)  # whole, but not yet moved

    assert checkpoints.newest_valid(tmp_path) == (tmp_path / "checkpoint-4", {})


def tear(checkpoint: Path) -> str:
    os.truncate(checkpoint / FILES[1], 10)
    return f"{checkpoint / FILES[1]} has 10 bytes"


def flip(checkpoint: Path) -> str:
    path = checkpoint / FILES[0]
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)
    return f"{path} does not have the SHA-256"


def unfinished(checkpoint: Path) -> str:
    (checkpoint / MANIFEST).unlink()
    return f"{checkpoint} has no {MANIFEST}: it was never finished."


def emptied(checkpoint: Path) -> str:
    for path in checkpoint.iterdir():
        path.unlink()
    return f"{checkpoint} has no {MANIFEST}: it was never finished."


def no_folder(checkpoint: Path) -> str:
    emptied(checkpoint)
    checkpoint.rmdir()
    checkpoint.touch()
    return f"{checkpoint / MANIFEST} cannot be read"


DAMAGES = [tear, flip, unfinished, emptied, no_folder]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_the_file_named(tmp_path, damage):
    save(tmp_path, 4, 8)
    expected = damage(tmp_path / "checkpoint-8")

    newest, rejected = checkpoints.newest_valid(tmp_path)

    assert newest == tmp_path / "checkpoint-4"
    assert list(rejected) == ["checkpoint-8"]
    assert expected in rejected["checkpoint-8"]


@pytest.mark.parametrize("name", [*FILES[1:], "trainer_state.json"])
def test_a_checkpoint_that_lacks_what_resuming_needs_is_refused(tmp_path, name):
    staged = stage(tmp_path, 8)
    (staged / name).unlink()
    saved = checkpoints.commit(staged, tmp_path)

    with pytest.raises(IntegrityError, match=f"checkpoint-8 lacks {name}"):
        checkpoints.check(saved)


def test_only_the_newest_are_kept(tmp_path):
    save(tmp_path, 2, 4, 6, 8)

    removed = checkpoints.prune(tmp_path, keep=2)

    assert steps_in(tmp_path) == [8, 6]
    assert removed == [tmp_path / "checkpoint-4", tmp_path / "checkpoint-2"]


def test_protected_steps_are_kept(tmp_path):
    save(tmp_path, 2, 4, 6)

    checkpoints.prune(tmp_path, keep=1, protected={2})

    assert steps_in(tmp_path) == [6, 2]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_valid_checkpoint_is_never_removed(tmp_path, damage):
    save(tmp_path, 2, 4, 6)
    damage(tmp_path / "checkpoint-6")

    checkpoints.prune(tmp_path, keep=1)

    assert steps_in(tmp_path) == [6, 4]
    assert checkpoints.newest_valid(tmp_path)[0] == tmp_path / "checkpoint-4"


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_pruning_keeps_what_it_promises(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("checkpoints")
    steps = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True))
    broken = data.draw(st.sets(st.sampled_from(steps)))
    protected = data.draw(st.sets(st.sampled_from(steps)))
    keep = data.draw(st.integers(1, 3))
    for path in save(folder, *steps):
        if checkpoints.step_of(path) in broken:
            flip(path)
    newest, _ = checkpoints.newest_valid(folder)

    checkpoints.prune(folder, keep, protected)

    left = set(steps_in(folder))
    assert checkpoints.newest_valid(folder)[0] == newest
    assert protected | set(sorted(steps)[-keep:]) <= left
    assert len(left - protected) <= keep + 1
