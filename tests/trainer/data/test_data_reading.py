import bz2
import csv
import gzip
import json
import lzma
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.contract.errors import DataError
from trainer.data import inspect_dataset
from trainer.data.reading import is_elsewhere, open_source

KINDS = ".arrow, .csv, .json, .jsonl, .ndjson, .parquet, .tsv, .txt"


def rows_of(path):
    return list(open_source(str(path)).rows())


def problem_with(path):
    with pytest.raises(DataError) as caught:
        rows_of(path)
    return str(caught.value)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_jsonl_with_bom_crlf_and_blank_lines_keeps_line_numbers(tmp_path):
    path = write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"text": "x"}\r\n\r\n{"text": "y"}')

    assert [(row.place, row.value) for row in rows_of(path)] == [
        ("a.jsonl:1", {"text": "x"}),
        ("a.jsonl:3", {"text": "y"}),
    ]


def test_gzip_is_read_as_what_it_holds(tmp_path):
    path = write(tmp_path / "a.jsonl.gz", gzip.compress(b'{"text": "x"}\n'))

    assert rows_of(path)[0].value == {"text": "x"}


def packed_by_arrow(content):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKED = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": packed_by_arrow,
}
MANY = b"".join(b'{"text": "%d"}\n' % i for i in range(2000))


@pytest.mark.parametrize("suffix", PACKED)
def test_what_is_packed_is_read_as_what_it_holds(tmp_path, suffix):
    packed = write(tmp_path / f"a.jsonl.{suffix}", PACKED[suffix](MANY) + PACKED[suffix](MANY))

    rows = rows_of(packed)

    assert [row.value["text"] for row in rows] == [str(i) for i in range(2000)] * 2
    assert [row.place for row in rows_of(tmp_path)] == [row.place for row in rows]


@pytest.mark.parametrize("suffix", PACKED)
def test_what_is_packed_and_torn_is_named(tmp_path, suffix):
    path = write(tmp_path / f"a.jsonl.{suffix}", PACKED[suffix](MANY)[:-12])

    assert f"a.jsonl.{suffix} cannot be read" in problem_with(path)


def test_columns_may_be_parted_by_tabs(tmp_path):
    path = write(tmp_path / "a.tsv", 'instruction\toutput\n"one\ntwo"\tb, c\n')

    assert [row.value for row in rows_of(path)] == [{"instruction": "one\ntwo", "output": "b, c"}]


@pytest.mark.parametrize(
    "content",
    [
        '[{"a": 1}, {"a": 2}]',
        '{"version": 3, "data": [{"a": 1}, {"a": 2}]}',
        '{"data": [{"role": "nurse", "a": 1}, {"role": "user", "a": 2}]}',
    ],
)
def test_json_is_an_array_or_an_object_with_one(tmp_path, content):
    rows = rows_of(write(tmp_path / "a.json", content))

    assert [(row.place, row.value["a"]) for row in rows] == [
        ("a.json:row 1", 1),
        ("a.json:row 2", 2),
    ]


def test_a_json_file_with_an_object_a_line_is_read_as_jsonl(tmp_path):
    rows = rows_of(write(tmp_path / "a.json", '{"a": 1}\n{"a": 2}\n'))

    assert [row.place for row in rows] == ["a.json:1", "a.json:2"]


@pytest.mark.parametrize(
    "chat",
    [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
        {"id": 3, "tools": [], "conversations": [{"from": "human", "value": "Hi"}]},
    ],
)
def test_a_chat_alone_in_a_json_file_is_one_row(tmp_path, chat):
    rows = rows_of(write(tmp_path / "a.json", json.dumps(chat, indent=1)))

    assert [row.value for row in rows] == [chat]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_name_that_an_object_has_twice_is_refused(tmp_path, name):
    row = '{"messages": [{"role": "user", "content": "one", "content": "other"}]}'
    path = write(tmp_path / name, f"[{row}]" if name == "a.json" else row)

    assert '"content" is there twice in one object' in problem_with(path)


def test_what_a_json_file_has_beside_its_rows_is_named(tmp_path, make_config):
    rows = [{"text": "a"}, {"text": "b"}]
    path = write(tmp_path / "a.json", json.dumps({"system": "Be brief.", "data": rows, "v": 2}))

    unread = inspect_dataset(make_config(path)).unread

    assert unread == {"system (beside the rows)": 2, "v (beside the rows)": 2}


def test_json_with_two_lists_is_ambiguous(tmp_path):
    path = write(tmp_path / "a.json", '{"train": [], "test": []}')

    assert "neither an array of rows nor an object with one" in problem_with(path)


def test_csv_with_quotes_and_newlines_in_fields(tmp_path):
    path = tmp_path / "a.csv"
    rows = [{"q": 'say "hi", now', "a": "one\ntwo\r\nthree"}, {"q": "", "a": "ünïcode"}]
    with path.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, ["q", "a"])
        writer.writeheader()
        writer.writerows(rows)

    read = rows_of(path)

    assert [row.value for row in read] == rows
    assert [row.place for row in read] == ["a.csv:2", "a.csv:5"]


def test_csv_field_larger_than_pythons_own_limit(tmp_path):
    path = write(tmp_path / "a.csv", "text\n" + "x" * 300_000 + "\n")

    assert len(rows_of(path)[0].value["text"]) == 300_000


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a,b\n1,2\n1,2,3\n", "a.csv:3: has 3 fields where the header names 2"),
        ("a,a\n1,2\n", "a.csv:1: the header names 'a' more than once"),
        ('a,b\n1,"2\n', "a.csv:2: is not CSV: unexpected end of data"),
        ("a,b\r1,2\r", "a.csv:1: a line ends by a carriage return alone"),
    ],
)
def test_broken_csv_names_the_line(tmp_path, content, expected):
    assert expected in problem_with(write(tmp_path / "a.csv", content))


def test_parquet_rows_are_counted_from_one(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"t{i}" for i in range(3000)]}), path)

    rows = rows_of(path)

    assert rows[2999].value == {"text": "t2999"}
    assert rows[2999].place == "a.parquet:row 3000"


def test_a_mixed_folder_is_read_in_the_order_of_names(tmp_path):
    write(tmp_path / "b.jsonl", '{"n": "b"}\n')
    write(tmp_path / "a" / "deep" / "z.csv", "n\naz\n")
    pq.write_table(pa.table({"n": ["c"]}), tmp_path / "c.parquet")
    write(tmp_path / "d.json", '[{"n": "d"}]')
    write(tmp_path / ".hidden" / "x.jsonl", "not json")
    write(tmp_path / ".x.jsonl", "not json")
    write(tmp_path / "README.md", "not data")
    write(tmp_path / "empty.jsonl", "")

    source = open_source(str(tmp_path))

    assert [row.value["n"] for row in source.rows()] == ["az", "b", "c", "d"]
    assert source.files == ("a/deep/z.csv", "b.jsonl", "c.parquet", "d.json", "empty.jsonl")


def test_a_line_of_ten_megabytes_is_read(tmp_path):
    path = write(tmp_path / "a.jsonl", json.dumps({"text": "ab" * 5_000_000}) + "\n")

    assert len(rows_of(path)[0].value["text"]) == 10_000_000


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    text, count = "x" * 1000, 20_000
    if suffix == ".parquet":
        pq.write_table(pa.table({"text": [text] * count}), path, row_group_size=1000)
        rows_of(path)  # what is imported once does not count
    else:
        line = f'{{"text": "{text}"}}\n' if suffix == ".jsonl" else f"{text}\n"
        write(path, "text\n" * (suffix == ".csv") + line * count)

    tracemalloc.start()
    read = sum(1 for _ in open_source(str(path)).rows())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert read == count
    assert peak < 6_000_000  # bytes; the rows together are 20 MB


def test_bytes_that_are_not_utf8_are_located(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "x"}\n{"text": "é"}\n'.encode("latin-1"))

    message = problem_with(path)

    assert f"{path}:2: byte 24 of the file, 0xe9, is not UTF-8" in message
    assert "Save the file as UTF-8" in message


def test_invalid_json_names_line_and_column(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "x"}\n{"text": "y",}\n')

    assert f"{path}:2: is not JSON at column 14" in problem_with(path)


@pytest.mark.parametrize("line", ["[1]", '"text"', "null", "[" * 100_000, "1" * 5000])
def test_a_line_that_is_no_object_is_named(tmp_path, line):
    assert f"{tmp_path / 'a.jsonl'}:1: is " in problem_with(write(tmp_path / "a.jsonl", line))


def test_a_parquet_file_that_is_none_is_named(tmp_path):
    path = write(tmp_path / "a.parquet", b"PAR1 no parquet")

    assert f"{path} cannot be read as Parquet" in problem_with(path)


def test_a_missing_path_says_where_relative_paths_start(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    message = problem_with("none.jsonl")

    assert "there is no such file or folder" in message
    assert f"Relative paths start at {tmp_path}." in message


def test_a_missing_absolute_path_says_nothing_of_relative_ones(tmp_path):
    message = problem_with(tmp_path / "none.jsonl")

    assert message.endswith("there is no such file or folder. Correct the path.")
    assert str(tmp_path / "none.jsonl") in message


def test_a_folder_without_data_says_so(tmp_path):
    assert "no file is there" in problem_with(tmp_path)

    write(tmp_path / "a.xlsx", "x")

    assert "none of its files can be read ('a.xlsx')" in problem_with(tmp_path)
    assert KINDS in problem_with(tmp_path)


def test_a_file_of_another_kind_lists_those_that_can_be_read(tmp_path):
    assert KINDS in problem_with(write(tmp_path / "a.xlsx", "x"))


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", "\n\n"), ("a.json", "[]"), ("a.csv", "text\n")]
)
def test_a_dataset_without_rows_is_refused(tmp_path, name, content):
    assert "holds no rows" in problem_with(write(tmp_path / name, content))


def test_a_dangling_link_is_not_passed_over(tmp_path):
    write(tmp_path / "a.jsonl", '{"text": "x"}\n')
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")

    assert "b.jsonl cannot be read: No such file or directory" in problem_with(tmp_path)


def test_a_tilde_means_the_home_folder(tmp_path, monkeypatch):
    write(tmp_path / "a.jsonl", '{"text": "x"}\n')
    monkeypatch.setenv("HOME", str(tmp_path))

    assert rows_of("~/a.jsonl")[0].value == {"text": "x"}


def test_the_hash_changes_with_content_and_names_and_not_with_the_place(tmp_path):
    write(tmp_path / "one" / "a.jsonl", '{"text": "x"}\n')
    write(tmp_path / "two" / "a.jsonl", '{"text": "x"}\n')
    write(tmp_path / "three" / "b.jsonl", '{"text": "x"}\n')
    write(tmp_path / "four" / "a.jsonl", '{"text": "y"}\n')

    hashes = [
        open_source(str(tmp_path / name)).sha256() for name in ("one", "two", "three", "four")
    ]

    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize(
    ("path", "is_hub"),
    [
        ("org/name", True),
        ("squad", True),
        ("org/name-1.5", True),
        ("org/name.jsonl", False),
        ("data/train.txt", False),
        ("./org/name", False),
        ("~/name", False),
        ("/org/name", False),
        ("a/b/c", False),
        ("org/na me", False),
        ("openai/gsm8k:main", True),
        ("squad:plain_text", True),
        ("rows.jsonl:main", False),
        ("hf://datasets/org/name", True),
        ("hf://datasets/org/name@v1/data/train.parquet", True),
        ("hf://org/name", False),
        ("https://example.org/rows.jsonl", True),
        ("*.jsonl", False),
    ],
)
def test_what_cannot_be_a_file_here(path, is_hub):
    assert is_elsewhere(path) is is_hub
