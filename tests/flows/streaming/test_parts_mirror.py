"""A checkpoint in parts is home when all are, and a machine gets back what it needs of it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from blocks.machines.local import LocalMachine
from blocks.workplaces.machine import MachineWorkplace
from flows.streaming.checkpoint_mirror import put_back
from flows.streaming.parts_mirror import PartsMirror
from tests.trainer.contract.parts import parts_of
from tests.trainer.jobs import flip_a_byte
from trainer.contract.checkpoints import all_checkpoints, check
from trainer.contract.manifest import read_manifest, verify
from trainer.contract.parts import needed_on


def there(folder: Path) -> MachineWorkplace:
    return MachineWorkplace(LocalMachine(), str(folder))


@pytest.fixture
def mirror(tmp_path):
    """The mirror of two machines."""

    async def reach(work):
        return await work(there(tmp_path / "1"))

    home = tmp_path / "home"
    home.mkdir()
    return PartsMirror(there(tmp_path / "0"), home, others=[reach])


def at_home(folder: Path) -> list[str]:
    return [path.name for path in all_checkpoints(folder / "home")]


async def test_the_parts_of_all_machines_are_one_checkpoint_at_home(tmp_path, mirror):
    parts = parts_of(tmp_path)

    await mirror.sync()

    [checkpoint] = all_checkpoints(tmp_path / "home")
    check(checkpoint)
    names = {p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*") if p.is_file()}
    assert names == {*read_manifest(checkpoint)["files"], "MANIFEST.json"}
    assert all(set(read_manifest(part)["files"]) < names for part in parts)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["checkpoint-5"]


@pytest.mark.fault(141, "fsdp: a part late, damaged or of another save")
@pytest.mark.parametrize("fault", ["late", "damaged", "of another save"])
async def test_without_one_part_there_is_no_checkpoint(tmp_path, mirror, fault):
    parts_of(tmp_path)
    await mirror.sync()
    _, second = parts_of(tmp_path, step=6)
    match fault:
        case "late":
            kept = second.rename(tmp_path / "kept")
        case "damaged":
            flip_a_byte(second / "shards/__2_0.distcp")
        case _:
            shutil.rmtree(second)
            shutil.copytree(parts_of(tmp_path / "again", step=6, save="another")[1], second)

    await mirror.sync()

    assert at_home(tmp_path) == ["checkpoint-5"]
    assert not list((tmp_path / "home").glob(".*"))
    if fault == "late":
        kept.rename(second)
        await mirror.sync()
        assert at_home(tmp_path) == ["checkpoint-6", "checkpoint-5"]


@pytest.mark.fault(142, "fsdp: a machine without its part, or with a damaged one")
async def test_a_machine_gets_what_it_lacks_of_what_it_needs(tmp_path, mirror, monkeypatch):
    parts_of(tmp_path)
    await mirror.sync()
    [checkpoint] = all_checkpoints(tmp_path / "home")
    sent = []
    put = MachineWorkplace.put

    async def counted(self, local, name):
        sent.append(Path(name).name)
        await put(self, local, name)

    monkeypatch.setattr(MachineWorkplace, "put", counted)
    needed = partial(needed_on, read_manifest(checkpoint))
    machine = there(tmp_path / "1")

    await put_back(machine, checkpoint, needed(1, nodes=2, processes=4), anew=False)
    assert sent == []  # it has its part
    await put_back(machine, checkpoint, needed(1, nodes=2, processes=2), anew=False)
    assert set(sent) == {"__0_0.distcp", "__1_0.distcp", "rng_state_0.pth", "rng_state_1.pth"}
    verify(tmp_path / "1/checkpoints/checkpoint-5")

    sent.clear()
    shutil.rmtree(tmp_path / "1")
    await put_back(machine, checkpoint, needed(1, nodes=2, processes=4), anew=False)
    assert len(sent) == len(needed(1, nodes=2, processes=4)["files"])
    flip_a_byte(tmp_path / "1/checkpoints/checkpoint-5/shards/__3_0.distcp")
    await put_back(machine, checkpoint, needed(1, nodes=2, processes=4), anew=True)
    check(tmp_path / "1/checkpoints/checkpoint-5")
