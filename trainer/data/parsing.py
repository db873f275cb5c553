"""One file of examples → its rows, each with the place it came from.

JSONL, CSV and Parquet are read as streams: memory holds one line or one batch, not the file.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, NoReturn

from trainer.contract.errors import DataError

MAX_CSV_FIELD = 1 << 30  # characters; Python's own limit, 131,072, is shorter than a long text
PARQUET_BATCH = 1024  # rows decoded at a time
SAVE_AS_UTF8 = "Save the file as UTF-8 and run the job again."
ONE_OBJECT_A_LINE = "A .jsonl file holds one whole JSON object on every line."


class Row(NamedTuple):
    """One row and where it was found."""

    file: str
    number: int
    """From 1. Lines count the header and blank lines; a record of several lines has its first."""
    counted: Literal["line", "row"]
    """What `number` counts."""
    value: dict[str, Any]

    @property
    def place(self) -> str:
        """Where a person finds the row: `train.jsonl:17`, or `train.parquet:row 17`."""
        return f"{self.file}:{'row ' if self.counted == 'row' else ''}{self.number}"


def kind_of(path: Path) -> str:
    """Return the suffix that says how to read `path`: `.csv` for both x.csv and x.csv.gz."""
    # Parquet compresses inside, and is read from its end: one that is packed cannot be streamed.
    packed = path.suffix.lower() in UNPACKED
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    return "" if suffix == ".parquet" and packed else suffix


def read_file(path: Path, name: str) -> Iterator[Row]:
    """Yield the rows of one file.

    Args:
        path: the file; its suffix is one of `READERS`, with or without one of `UNPACKED`.
        name: how the rows call the file.

    Raises:
        DataError: it cannot be read, is not UTF-8, or is not what its suffix says.
    """
    try:
        yield from READERS[kind_of(path)](path, name)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"{path} cannot be read: {reason}.",
            "Check that the file is whole and that you may read it.",
        ) from error


def _read_jsonl(path: Path, name: str) -> Iterator[Row]:
    with _open(path) as stream:
        for number, line in enumerate(_decoded(stream, path), 1):
            if line.strip():
                value = _parse(line, f"{path}:{number}", ONE_OBJECT_A_LINE)
                yield _row(name, number, "line", value, f"{path}:{number}")


def _read_json(path: Path, name: str) -> Iterator[Row]:
    with _open(path) as stream:
        # An array has to be read as a whole; large datasets are better given as JSONL.
        text = "".join(_decoded(stream, path))
    try:
        whole = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        # Many call their JSONL files .json; only then does more follow a whole first value.
        if error.msg != "Extra data":
            _not_json(error, f"{path}:{error.lineno}", "Correct the file there.")
        yield from _read_jsonl(path, name)
        return
    # JSONDecodeError is a ValueError; the others are numbers with too many digits for int().
    except (ValueError, RecursionError) as error:
        _not_json(error, str(path), "Correct the file.")
    for number, value in enumerate(_rows_of(whole, path), 1):
        yield _row(name, number, "row", value, f"{path}:row {number}")


def _rows_of(whole: Any, path: Path) -> list[Any]:
    """Return the array itself, or the only list of an object: {"version": 1, "data": […]}."""
    if isinstance(whole, list):
        return whole
    lists = (
        [value for value in whole.values() if isinstance(value, list)]
        if (isinstance(whole, dict))
        else []
    )
    if len(lists) != 1:
        raise DataError(
            f"{path} holds neither an array of rows nor an object with one such array.",
            "Write [{…}, {…}], or one object a line in a .jsonl file.",
        )
    return lists[0]


def _read_csv(path: Path, name: str) -> Iterator[Row]:
    # Global to the process; the module has no other way.
    csv.field_size_limit(MAX_CSV_FIELD)
    with _open(path) as stream:
        between = "\t" if kind_of(path) == ".tsv" else ","
        reader = csv.reader(_decoded(stream, path), strict=True, delimiter=between)
        try:
            header = [column.strip() for column in next(reader, [])]
            _check_header(header, path)
            # A quoted field may hold line breaks: line_num is then the record's last line, and a
            # person looks for its first.
            line = reader.line_num + 1
            for values in reader:
                if values:
                    yield Row(name, line, "line", _record(header, values, f"{path}:{line}"))
                line = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}:{reader.line_num}: is not CSV: {error}.",
                'Put fields that hold commas, quotes or line breaks in "…", and double inner quotes.',
            ) from error


def _check_header(header: list[str], path: Path) -> None:
    twice = sorted({column for column in header if header.count(column) > 1})
    if twice:
        raise DataError(
            f"{path}:1: the header names {', '.join(map(repr, twice))} more than once.",
            "Give every column its own name in the first line.",
        )


def _record(header: list[str], values: list[str], place: str) -> dict[str, Any]:
    if len(values) != len(header):
        raise DataError(
            f"{place}: has {len(values)} fields where the header names {len(header)}.",
            'Put fields that hold commas in "…".',
        )
    return dict(zip(header, values, strict=True))


def _read_parquet(path: Path, name: str) -> Iterator[Row]:
    # Imported here: the other formats need no Arrow.
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_BATCH):
                # One batch at a time: a row group may hold the whole file.
                for value in batch.to_pylist():
                    number += 1
                    yield Row(name, number, "row", without_nulls(value))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet after row {number}: {error}.",
            "Write the file again.",
        ) from error


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a table without the nulls that other rows' keys have left in its objects.

    A table gives every object every key that any row has: {"query": null, "port": "Brest"} is a call
    with one argument. Its columns stay.
    """

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stripped(each) for key, each in value.items() if each is not None}
        return [stripped(each) for each in value] if isinstance(value, list) else value

    return {column: stripped(value) for column, value in row.items()}


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
"""How to read a file, by its suffix."""


class _Unpacked(io.RawIOBase):
    """What Arrow unpacks, as a file of Python's."""

    def __init__(self, path: Path, kind: str) -> None:
        # Imported here: the other formats need no Arrow.
        import pyarrow as pa

        self._stream = pa.input_stream(str(path), compression=kind)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._stream.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _unpacked_by_arrow(path: Path) -> IO[bytes]:
    return io.BufferedReader(_Unpacked(path, "zstd"))


UNPACKED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _unpacked_by_arrow,
}
"""How to open a file that is packed, by its last suffix; all of them for reading bytes."""


def _open(path: Path) -> IO[bytes]:
    opened: IO[bytes] = UNPACKED.get(path.suffix.lower(), _plain)(path)
    return opened


def _plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _decoded(stream: Iterable[bytes], path: Path) -> Iterator[str]:
    """Yield the lines as text, line ends kept; a byte order mark at the start is dropped."""
    offset = 0
    for number, line in enumerate(stream, 1):
        try:
            # By line, not by a text stream: the error then knows the line, and the byte in the
            # file.
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}:{number}: byte {offset + error.start} of the file, "
                f"0x{line[error.start]:02x}, is not UTF-8.",
                SAVE_AS_UTF8,
            ) from error
        yield text.removeprefix("\ufeff") if number == 1 else text
        offset += len(line)


def _parse(text: str, place: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        _not_json(error, place, remedy)


def _not_json(error: Exception, place: str, remedy: str) -> NoReturn:
    if isinstance(error, json.JSONDecodeError):
        raise DataError(
            f"{place}: is not JSON at column {error.colno}: {error.msg}.", remedy
        ) from error
    raise DataError(f"{place}: is JSON that cannot be read: {error}.", remedy) from error


def _row(name: str, number: int, counted: Literal["line", "row"], value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(
            f"{place}: is not a JSON object but {json.dumps(value, ensure_ascii=False)[:60]}.",
            'Write every row as an object such as {"text": "…"}.',
        )
    return Row(name, number, counted, value)
