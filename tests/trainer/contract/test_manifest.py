"""A folder is whole when its manifest holds; every kind of damage is named."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.contract.errors import IntegrityError
from trainer.contract.manifest import MANIFEST, check_name, read_manifest, verify, write_manifest

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with files of several sizes, one in a sub-folder, and a manifest that holds."""
    folder = tmp_path / "checkpoint-4"
    (folder / "sub").mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(bytes(range(256)) * 8)
    (folder / "sub" / "note.txt").write_text("ok")
    (folder / "empty").touch()
    write_manifest(folder, step=4)
    return folder


def rewrite(folder: Path, name: str, **facts: object) -> None:
    """Add an entry to the manifest, or change one."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = manifest["files"].get(name, {}) | facts
    (folder / MANIFEST).write_text(json.dumps(manifest))


def refusal(folder: Path) -> str:
    with pytest.raises(IntegrityError) as caught:
        verify(folder)
    return caught.value.message


def test_an_undamaged_folder_holds(folder):
    manifest = verify(folder)

    assert manifest["step"] == 4
    assert set(manifest["files"]) == {WEIGHTS, "sub/note.txt", "empty"}
    assert manifest["files"][WEIGHTS]["bytes"] == 2048


def test_a_manifest_can_be_written_again(folder):
    (folder / WEIGHTS).write_bytes(b"new")

    write_manifest(folder)

    assert verify(folder)["files"][WEIGHTS]["bytes"] == 3


def test_a_missing_file_is_named(folder):
    (folder / WEIGHTS).unlink()

    assert refusal(folder) == f"{folder / WEIGHTS} is missing."


def test_a_truncated_file_is_named_with_both_sizes(folder):
    os.truncate(folder / WEIGHTS, 2000)

    assert refusal(folder) == f"{folder / WEIGHTS} has 2000 bytes, its manifest says 2048."


@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.sampled_from([WEIGHTS, "sub/note.txt"]), st.integers(0), st.integers(1, 255))
def test_any_flipped_byte_is_caught(folder, name, place, change):
    path = folder / name
    content = bytearray(path.read_bytes())
    place %= len(content)
    content[place] ^= change
    path.write_bytes(content)

    assert refusal(folder) == f"{path} does not have the SHA-256 that its manifest says."

    content[place] ^= change
    path.write_bytes(content)
    verify(folder)


@settings(
    deadline=None,
    max_examples=200,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.integers(0), st.integers(1, 255))
def test_a_flipped_byte_of_the_manifest_itself_changes_nothing_unnoticed(folder, place, change):
    whole = (folder / MANIFEST).read_bytes()
    files = verify(folder)["files"]
    torn = bytearray(whole)
    torn[place % len(torn)] ^= change
    (folder / MANIFEST).write_bytes(torn)
    try:
        assert verify(folder)["files"] == files
    except IntegrityError:
        pass
    finally:
        (folder / MANIFEST).write_bytes(whole)


def test_a_link_in_place_of_a_file_is_refused(folder):
    shutil.move(folder / WEIGHTS, folder.parent / "elsewhere")
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")

    assert refusal(folder) == f"{folder / WEIGHTS} is not a regular file."


def test_a_device_in_place_of_a_file_is_refused(folder):
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)  # to read it would wait for ever

    assert refusal(folder) == f"{folder / WEIGHTS} is not a regular file."


def test_a_link_is_never_described(folder):
    (folder / "link").symlink_to("/etc/passwd")

    with pytest.raises(IntegrityError, match="link is a symbolic link"):
        write_manifest(folder)


def test_a_lying_size_is_refused(folder):
    rewrite(folder, WEIGHTS, bytes=10**12)

    assert "has 2048 bytes, its manifest says 1000000000000." in refusal(folder)


NAMES = ["../secret", "/etc/passwd", "sub/../../secret", "a\\b", "", "nul\0", ".."]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_out_of_the_folder_is_refused(folder, name):
    (folder.parent / "secret").write_text("ok")
    rewrite(folder, name, bytes=2, sha256="0" * 64)

    assert refusal(folder) == f"{name!r} is not the name of a file inside the folder."


@pytest.mark.parametrize("name", ["a", "a/b", "..a", "a b", "...", "ä"])
def test_an_ordinary_name_is_accepted(name):
    assert check_name(name) is None  # it would raise


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 200_000])
def test_a_manifest_that_is_no_json_is_refused(folder, content):
    (folder / MANIFEST).write_bytes(content)

    assert f"{folder / MANIFEST} cannot be read: " in refusal(folder)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"files": []}', json.dumps({"files": dict.fromkeys(map(str, range(100_001)))})]
)  # fmt: skip
def test_a_manifest_of_another_shape_is_refused(folder, content):
    (folder / MANIFEST).write_text(content)

    assert refusal(folder) == f"{folder / MANIFEST} is not a manifest."


@pytest.mark.parametrize(
    "facts", [{"bytes": "2048"}, {"bytes": None}, {"bytes": 2048.0}, {"sha256": 1}]
)
def test_an_entry_that_says_nothing_is_refused(folder, facts):
    rewrite(folder, WEIGHTS, **facts)

    assert f"says nothing usable about '{WEIGHTS}'" in refusal(folder)


def test_without_a_manifest_a_folder_was_never_finished(folder):
    (folder / MANIFEST).unlink()

    with pytest.raises(IntegrityError, match="it was never finished"):
        read_manifest(folder)
