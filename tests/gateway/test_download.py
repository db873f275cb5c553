"""An artifact is copied whole and verified, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.cli.download import copy_verified, refuse_if_too_large
from trainer.contract.errors import DiskFull, IntegrityError
from trainer.contract.manifest import verify, write_manifest


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    (folder / "nested").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"w" * 4096)
    (folder / "nested" / "extra.json").write_text("{}")
    write_manifest(folder, method="sft")
    return folder


def test_the_copy_is_whole(artifact: Path, tmp_path: Path):
    copy_verified(artifact, tmp_path / "deep" / "copy")

    assert verify(tmp_path / "deep" / "copy") == verify(artifact)


def test_an_empty_folder_may_be_the_target(artifact: Path, tmp_path: Path):
    (tmp_path / "copy").mkdir()

    copy_verified(artifact, tmp_path / "copy")

    assert verify(tmp_path / "copy")["method"] == "sft"


def test_a_damaged_artifact_is_not_copied(artifact: Path, tmp_path: Path):
    (artifact / "model.safetensors").write_bytes(b"x" * 4096)

    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        copy_verified(artifact, tmp_path / "copy")

    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["artifact"]


def test_what_the_manifest_does_not_name_stays_behind(artifact: Path, tmp_path: Path):
    (artifact / "stray.txt").write_text("not ours")

    copy_verified(artifact, tmp_path / "copy")

    assert not (tmp_path / "copy" / "stray.txt").exists()


def test_a_full_disk_is_told_with_both_sizes(tmp_path: Path):
    manifest = {"files": {"model.safetensors": {"bytes": 1 << 60}}}

    with pytest.raises(DiskFull, match=r"MB free; the artifact has 1152921504607 MB"):
        refuse_if_too_large(manifest, tmp_path)
