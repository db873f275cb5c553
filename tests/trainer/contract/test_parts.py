"""Parts of checkpoints: which belong together, and which machine needs what of the whole."""

from __future__ import annotations

import json

import pytest

from tests.trainer.contract.parts import parts_of
from trainer.contract.checkpoints import check, check_names, commit
from trainer.contract.errors import IntegrityError
from trainer.contract.manifest import parse_manifest, read_manifest
from trainer.contract.parts import common_files, needed_on, refuse_parts_of_others, whole
from trainer.contract.world import Rank


def manifests(folder, **changes):
    return [read_manifest(part) for part in parts_of(folder, **changes)]


def test_parts_of_one_save_are_a_whole_with_the_files_of_all(tmp_path):
    first, second = manifests(tmp_path)

    found = whole([first, second], "checkpoint-5")

    assert set(found["files"]) == {*first["files"], *second["files"]}
    assert (found["step"], found["processes"], found["parts"]) == (5, 4, 1)
    check_names(found, "it")  # the random numbers of all four processes are there
    for rank, part in enumerate((first, second)):
        assert needed_on(found, rank, nodes=2, processes=4) == part


@pytest.mark.parametrize(("nodes", "processes"), [(1, 4), (2, 2), (4, 4)])
def test_other_machines_or_processes_need_the_whole(tmp_path, nodes, processes):
    found = whole(manifests(tmp_path), "checkpoint-5")

    assert needed_on(found, 0, nodes=nodes, processes=processes) == found


def test_what_one_machine_wrote_is_needed_as_it_is():
    assert needed_on({"files": {"a": {}}, "processes": 2}, 1, nodes=2, processes=2) == {
        "files": {"a": {}},
        "processes": 2,
    }


@pytest.mark.parametrize("change", [{"save": "other"}, {"step": 6}, {"processes": 8}, {"part": 0}])
def test_parts_of_different_saves_are_no_checkpoint(tmp_path, change):
    first, second = manifests(tmp_path)

    with pytest.raises(IntegrityError, match=r"Part 1 of checkpoint-5 is of another"):
        whole([first, {**second, **change}], "checkpoint-5")


def test_a_part_too_few_and_a_file_that_differs_are_no_checkpoint(tmp_path):
    first, second = manifests(tmp_path)
    second["files"]["scheduler.pt"] = {"bytes": 1, "sha256": "0"}

    with pytest.raises(IntegrityError, match="has 2 parts, and 1 came"):
        whole([first], "checkpoint-5")
    with pytest.raises(IntegrityError, match=r"scheduler\.pt is not the same in all parts"):
        whole([first, second], "checkpoint-5")


def test_a_part_holds_the_random_numbers_of_its_own_processes(tmp_path):
    part = parts_of(tmp_path)[1]
    check(part)
    (part / "rng_state_3.pth").unlink()
    lacking = commit(part, tmp_path, processes=4, part=1, parts=2, save="one")

    with pytest.raises(IntegrityError, match=r"lacks rng_state_3\.pth"):
        check(lacking)


@pytest.mark.parametrize(
    "rank",
    [
        Rank(rank=0, world_size=4, local_rank=0, local_world_size=2),  # the other machine
        Rank(rank=2, world_size=8, local_rank=0, local_world_size=2),  # one of four
        Rank(rank=1, world_size=2, local_rank=0, local_world_size=1),  # with half the processes
    ],
)
def test_nobody_else_goes_on_from_a_part(tmp_path, rank):
    _, second = manifests(tmp_path)

    refuse_parts_of_others(second, Rank(rank=2, world_size=4, local_rank=0, local_world_size=2), "")
    with pytest.raises(IntegrityError, match="is part 1 of 2 machines' with 4 processes"):
        refuse_parts_of_others(second, rank, "checkpoint-5")


def test_the_files_of_single_processes_are_not_common(tmp_path):
    part = parts_of(tmp_path)[0]

    assert set(common_files(part)) - {"MANIFEST.json"} == {
        *("shards/.metadata", "shards/alike.pt", "scheduler.pt", "trainer_state.json"),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"parts": 0},
        {"parts": "two"},
        {"parts": 3},
        {"part": 2},
        {"part": -1},
        {"processes": 10**12},
        {"processes": True},
        {"of_parts": [["elsewhere"]]},
        {"of_parts": [{}]},
        {"of_parts": 7},
    ],
)
def test_what_a_machine_may_write_of_its_parts_is_counted_with_or_refused(tmp_path, change):
    [manifest, _] = manifests(tmp_path)

    with pytest.raises(IntegrityError, match="nothing usable about processes and parts"):
        parse_manifest(json.dumps({**manifest, **change}).encode(), "it")
