"""The newest value of each metric of a job, from its file: of what was read before, nothing again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from trainer.contract.metrics import Record, parse_records
from trainer.contract.tail import TailReader

MOST_FILES = 2000


@dataclass(slots=True)
class _Read:
    """How far a file was read, and what was newest by then."""

    inode: int = -1
    offset: int = 0
    newest: Record = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


_files: OrderedDict[Path, _Read] = OrderedDict()
_all = threading.Lock()


def newest_values(path: Path) -> Record:
    """Return the newest value of each metric, and the newest step; empty without a file. It blocks."""
    with _all:
        read = _files.setdefault(path, _Read())
        _files.move_to_end(path)
        if len(_files) > MOST_FILES:
            _files.popitem(last=False)
    with read.lock:
        try:
            found = path.stat()
            if found.st_size < read.offset or found.st_ino != read.inode:  # another than before
                read.offset, read.newest, read.inode = 0, {}, found.st_ino
        except FileNotFoundError:
            return {}
        tail = TailReader(path, read.offset)
        for lines in tail.chunks():
            for record in parse_records(lines)[0]:
                # A resumed training repeats steps: the newest one is not always the last line.
                if record["step"] >= read.newest.get("step", -1):
                    read.newest |= {k: v for k, v in record.items() if v is not None}
            read.offset = tail.offset
        return dict(read.newest)
