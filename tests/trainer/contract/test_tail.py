"""A file that grows is read line by line: each once, whole, in order, whenever one looks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.contract.tail import TailReader


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "growing"


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(content)


def all_lines(reader: TailReader, *, rest: bool = False) -> list[bytes]:
    return [line for lines in reader.chunks(rest=rest) for line in lines]


def test_a_file_that_is_not_there_yet_holds_nothing(file):
    reader = TailReader(file)
    assert reader.read(rest=True) == []

    append(file, b"here it is\n")
    assert reader.read() == [b"here it is\n"]


def test_a_torn_line_waits_for_its_end(file):
    reader = TailReader(file)
    append(file, b"one\ntw")
    assert reader.read() == [b"one\n"]
    assert reader.read() == []
    assert reader.offset == 4

    append(file, b"o\n")
    assert reader.read() == [b"two\n"]


def test_a_torn_line_is_the_rest_when_nothing_more_will_come(file):
    append(file, b"one\ntw")
    reader = TailReader(file)

    assert reader.read(rest=True) == [b"one\n", b"tw"]
    assert reader.read(rest=True) == []
    assert reader.offset == 6


def test_a_burst_comes_in_chunks_of_whole_lines(file):
    lines = [b"line %d\n" % number for number in range(1000)]
    append(file, b"".join(lines))
    reader = TailReader(file, chunk=100)

    chunks = list(reader.chunks(rest=True))

    assert [line for chunk in chunks for line in chunk] == lines
    assert all(80 < sum(map(len, chunk)) <= 100 for chunk in chunks[:-1])


def test_a_line_longer_than_a_chunk_comes_in_pieces_and_holds_up_nothing(file):
    append(file, b"short\n" + b"x" * 25 + b"\nafter\n")
    reader = TailReader(file, chunk=10)

    pieces = all_lines(reader)

    assert pieces == [b"short\n", b"x" * 10, b"x" * 10, b"xxxxx\n", b"after\n"]
    assert reader.offset == file.stat().st_size


def test_a_line_that_just_fills_a_chunk_is_one_piece(file):
    append(file, b"123456789\n" + b"1234567890")
    reader = TailReader(file, chunk=10)

    assert reader.read() == [b"123456789\n"]
    assert reader.read() == [b"1234567890"]


def test_looking_takes_nothing(file):
    append(file, b"one\ntwo\n")
    reader = TailReader(file, 4)

    assert reader.peek() == reader.peek() == [b"two\n"]
    assert reader.offset == 4


def test_it_says_when_there_may_be_more(file):
    append(file, b"one\ntwo\nthree\n")
    reader = TailReader(file, chunk=10)

    assert reader.read() == [b"one\n", b"two\n"]
    assert reader.is_full
    assert reader.read() == [b"three\n"]
    assert not reader.is_full


def test_a_progress_bar_ends_its_lines_by_redrawing_them(file):
    append(file, b"10%\r20%\r\n30%")
    reader = TailReader(file, redrawn=True)

    assert reader.read() == [b"10%\r", b"20%\r\n"]
    append(file, b"\r40%")
    assert all_lines(reader, rest=True) == [b"30%\r", b"40%"]


@given(
    content=st.lists(st.sampled_from([b"a", b"\xc3\xa9", b"\n", b"\r", b"xyz", b"\x00", b"\n\n"])),
    cuts=st.lists(st.integers(0, 60)),
    chunk=st.integers(1, 12),
    redrawn=st.booleans(),
)
def test_however_it_grows_every_byte_comes_once_and_in_order(
    tmp_path_factory, content, cuts, chunk, redrawn
):
    whole = b"".join(content)
    file = tmp_path_factory.mktemp("tail") / "growing"
    reader = TailReader(file, chunk=chunk, redrawn=redrawn)
    found: list[bytes] = []
    edges = sorted({0, len(whole), *(cut for cut in cuts if cut < len(whole))})
    for start, end in pairwise(edges):
        append(file, whole[start:end])
        found += all_lines(reader)
    found += all_lines(reader, rest=True)

    ends = (b"\n", b"\r") if redrawn else (b"\n",)
    assert b"".join(found) == whole
    assert reader.offset == len(whole)
    assert all(found)
    assert all(line.endswith(ends) or len(line) == chunk for line in found[:-1])
    inner = [line.removesuffix(b"\n") for line in found]
    if redrawn:
        inner = [line.removesuffix(b"\r") for line in inner]
    assert not any(end in line for end in ends for line in inner)
