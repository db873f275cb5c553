"""Files that are replaced in one step."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from trainer.contract.files import read_json, replace_json, replace_text, sha256_of


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "status.json"
    path.write_text("old")

    replace_json(path, {"step": 1})

    assert read_json(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "status.json"
    path.write_text("old")

    with pytest.raises(UnicodeEncodeError):
        replace_text(path, "new" * 100_000 + "\ud800")  # what cannot be encoded cannot be written

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_rename_leaves_nothing_behind(tmp_path):
    path = tmp_path / "status.json"
    path.mkdir()

    with pytest.raises(IsADirectoryError):
        replace_text(path, "new")

    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_a_half(tmp_path):
    path = tmp_path / "status.json"
    replace_text(path, "a" * 5000)
    with path.open() as reader:
        replace_text(path, "b" * 9000, durable=False)

        assert reader.read() == "a" * 5000
    assert path.read_text() == "b" * 9000


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"\xff\xfe", b'"text"', b"[" * 200_000, b'{"a":' * 200_000]
)
def test_what_is_no_json_object_is_none(tmp_path, content):
    path = tmp_path / "control.json"
    path.write_bytes(content)

    assert read_json(path) is None


def test_what_cannot_be_read_is_none(tmp_path):
    assert read_json(tmp_path / "missing.json") is None
    assert read_json(tmp_path) is None


def test_the_sha256_is_the_one_of_the_standard(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1

    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of(path) == expected


def test_threads_that_replace_one_file_at_once_do_not_take_each_others(tmp_path):
    path = tmp_path / "state.json"

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: replace_json(path, {"n": n}, durable=False), range(400)))

    assert read_json(path) is not None
    assert list(tmp_path.iterdir()) == [path]
