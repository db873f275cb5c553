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
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, NoReturn

from trainer.contract.errors import DataError
from trainer.data.json_text import loads

MAX_CSV_FIELD = 1 << 30  # characters; Python's own limit, 131,072, is shorter than a long text
PARQUET_BATCH = 1024  # rows decoded at a time
SEPARATORS = (",", ";", "\t")
MAX_TEXT = 64 << 20  # bytes of a file that is one text; it is held in memory, and so are its tokens
SAVE_AS_UTF8 = "Save the file as UTF-8 and run the job again."
OF_TURNS = ("role", "from")
"""By one of them a turn of a chat says who speaks."""
OF_CHATS = {
    *("messages", "conversations", "conversation", "chat", "dialogue", "dialog"),
    *("prompt", "completion", "chosen", "rejected"),
}
"""The columns that may hold turns."""
ONE_OBJECT_A_LINE = "A .jsonl file holds one whole JSON object on every line."


class Row(NamedTuple):
    """One row and where it was found."""

    file: str
    number: int
    """From 1. Lines count the header and blank lines; a record of several lines has its first."""
    counted: Literal["line", "row"]
    """What `number` counts."""
    value: dict[str, Any]
    beside: tuple[str, ...] = ()
    """What lies in the file beside the array of its rows, by name."""

    @property
    def place(self) -> str:
        """Where a person finds the row: `train.jsonl:17`, or `train.parquet:row 17`."""
        return f"{self.file}:{'row ' if self.counted == 'row' else ''}{self.number}"


def kind_of(path: Path) -> str:
    """Return the suffix that says how to read `path`: `.csv` for both x.csv and x.csv.gz."""
    # Parquet compresses inside and is read from its end, and Arrow is mapped: neither can be streamed.
    packed = path.suffix.lower() in UNPACKED
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    return "" if suffix in {".parquet", ".arrow"} and packed else suffix


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
        whole = loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        # Many call their JSONL files .json; only then does more follow a whole first value.
        if error.msg != "Extra data":
            _not_json(error, f"{path}:{error.lineno}", "Correct the file there.")
        yield from _read_jsonl(path, name)
        return
    # JSONDecodeError is a ValueError; the others are numbers with too many digits for int().
    except (ValueError, RecursionError) as error:
        _not_json(error, str(path), "Correct the file.")
    rows, beside = _rows_of(whole, path)
    for number, value in enumerate(rows, 1):
        row = _row(name, number, "row", value, f"{path}:row {number}")
        yield row._replace(beside=beside) if beside else row


def _rows_of(whole: Any, path: Path) -> tuple[list[Any], tuple[str, ...]]:
    """Return the array itself, or the only list of an object, and what the object has beside it.

    A chat alone, {"messages": [{"role": …}]}, is one row, and its turns are none.
    """
    if isinstance(whole, list):
        return whole, ()
    named = whole if isinstance(whole, dict) else {}
    if any(_is_chat(*item) for item in named.items()):
        return [whole], ()
    lists = {name: value for name, value in named.items() if isinstance(value, list)}
    if len(lists) != 1:
        raise DataError(
            f"{path} holds neither an array of rows nor an object with one such array.",
            "Write [{…}, {…}], or one object a line in a .jsonl file.",
        )
    return next(iter(lists.values())), tuple(name for name in named if name not in lists)


def _is_chat(name: str, value: Any) -> bool:
    turns = value if isinstance(value, list) and name.casefold() in OF_CHATS else []
    return bool(turns) and all(
        isinstance(turn, dict) and {*OF_TURNS} & turn.keys() for turn in turns
    )


def _read_csv(path: Path, name: str) -> Iterator[Row]:
    # Global to the process; the module has no other way.
    csv.field_size_limit(MAX_CSV_FIELD)
    with _open(path) as stream:
        lines = _decoded(stream, path)
        first = next(lines, "")
        # Excel begins a file so, where commas are not what parts fields.
        mark = first.rstrip("\r\n")
        says = mark[:4].lower() == "sep=" and len(mark) == 5
        between, above = (mark[-1], 1) if says else (_between(first, path), 0)
        rest = lines if says else chain([first], lines)
        reader = csv.reader(rest, strict=True, delimiter=between)
        try:
            header = [column.strip() for column in next(reader, [])]
            _check_header(header, path)
            # A quoted field may hold line breaks: line_num is then the record's last line, and a
            # person looks for its first.
            line = reader.line_num + 1 + above
            for values in reader:
                if values:
                    yield Row(name, line, "line", _record(header, values, f"{path}:{line}"))
                line = reader.line_num + 1 + above
        except csv.Error as error:
            if "new-line character" in str(error):
                raise DataError(
                    f"{path}:{reader.line_num + above}: a line ends by a carriage return alone.",
                    "Save the file with the line ends of Unix or Windows.",
                ) from error
            raise DataError(
                f"{path}:{reader.line_num + above}: is not CSV: {error}.",
                'Put fields that hold commas, quotes or line breaks in "…", and double inner quotes.',
            ) from error


def _between(header: str, path: Path) -> str:
    """Return what parts the fields of a table, by its first line.

    Where decimals have a comma, Excel parts fields by semicolons and calls that CSV too.
    """
    if kind_of(path) == ".tsv":
        return "\t"

    def fields(delimiter: str) -> int:
        try:
            return len(next(csv.reader([header], delimiter=delimiter), []))
        except csv.Error:  # which reading it says once more, with the line
            return 0

    return max(SEPARATORS, key=fields)  # of equals the first


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
    import pyarrow.parquet as pq

    def batches() -> Iterator[Any]:
        with pq.ParquetFile(path) as file:
            # One batch at a time: a row group may hold the whole file.
            yield from file.iter_batches(batch_size=PARQUET_BATCH)

    return _rows_of_batches(batches(), path, name, "Parquet")


def _read_arrow(path: Path, name: str) -> Iterator[Row]:
    # Imported here: the other formats need no Arrow.
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        with pa.memory_map(str(path)) as stream:
            for batch in _batches_of(pa, stream):
                for start in range(0, batch.num_rows, PARQUET_BATCH):
                    yield batch.slice(start, PARQUET_BATCH)

    return _rows_of_batches(batches(), path, name, "Arrow")


def _rows_of_batches(batches: Iterator[Any], path: Path, name: str, kind: str) -> Iterator[Row]:
    """Yield the rows of batches of Arrow, without the nulls that stand for absent fields."""
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            for value in batch.to_pylist():
                number += 1
                yield Row(name, number, "row", without_nulls(value))
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as {kind} after row {number}: {error}.", "Write the file again."
        ) from error


def _batches_of(pa: Any, stream: Any) -> Iterator[Any]:
    opened = opened_arrow(pa, stream)
    if hasattr(opened, "num_record_batches"):
        yield from (opened.get_batch(i) for i in range(opened.num_record_batches))
    else:
        yield from opened


def opened_arrow(pa: Any, stream: Any) -> Any:
    """Open either of Arrow's two layouts; files begin with a word of their own."""
    is_file = stream.read(6) == b"ARROW1"
    stream.seek(0)
    return pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)


def _read_text(path: Path, name: str) -> Iterator[Row]:
    """Yield the one text that a file is: its lines are parts of it, and no texts of their own."""
    with _open(path) as stream:
        content = stream.read(MAX_TEXT + 1)
    if len(content) > MAX_TEXT:
        raise DataError(
            f"{path} is one text of more than {MAX_TEXT >> 20} MiB.",
            'Write its documents into files of their own, or as {"text": "…"} into a .jsonl file.',
        )
    text = "".join(_decoded(io.BytesIO(content), path))
    if text.strip():
        yield Row(name, 1, "row", {"text": text})


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
    ".arrow": _read_arrow,
    ".txt": _read_text,
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
        return loads(text)
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
