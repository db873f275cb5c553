"""The newest value of each metric is told, and nothing of a file is read twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.operations.newest_values import newest_values
from trainer.contract.tail import TailReader


def append(path: Path, *records: dict[str, float | None]) -> None:
    with path.open("a") as stream:
        stream.writelines(f"{json.dumps(record)}\n" for record in records)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_a_job_without_a_file_has_none(path: Path):
    assert newest_values(path) == {}
    append(path, {"step": 1, "loss": 2.0})
    assert newest_values(path) == {"step": 1, "loss": 2.0}


def test_each_metric_has_its_newest_value_though_lines_lack_some(path: Path):
    append(path, {"step": 1, "loss": 3.0, "eval_loss": 4.0}, {"step": 2, "loss": 2.0})
    append(path, {"step": 3, "loss": None})

    assert newest_values(path) == {"step": 3, "loss": 2.0, "eval_loss": 4.0}


def test_steps_that_a_resumed_training_repeats_count_from_where_they_are_new(path: Path):
    append(path, {"step": 9, "loss": 1.0}, {"step": 5, "loss": 1.5})
    assert newest_values(path) == {"step": 9, "loss": 1.0}

    append(path, {"step": 9, "loss": 1.0}, {"step": 10, "loss": 0.9})
    assert newest_values(path) == {"step": 10, "loss": 0.9}


def test_what_was_read_is_not_read_again_and_half_a_line_waits(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    begun: list[int] = []
    begin = TailReader.__init__

    def noted(self: TailReader, file: Path, offset: int = 0, **more: bool) -> None:
        begun.append(offset)
        begin(self, file, offset, **more)

    monkeypatch.setattr(TailReader, "__init__", noted)
    append(path, {"step": 1, "loss": 3.0})
    first = path.stat().st_size
    newest_values(path)
    with path.open("a") as stream:
        stream.write('{"step": 2, ')
    assert newest_values(path)["step"] == 1
    with path.open("a") as stream:
        stream.write('"loss": 2.5}\n')

    assert newest_values(path) == {"step": 2, "loss": 2.5}
    assert begun == [0, first, first]


@pytest.mark.parametrize("steps", [1, 5], ids=["smaller", "larger"])
def test_another_file_under_the_name_is_read_from_its_beginning(path: Path, steps: int):
    append(path, {"step": 8, "loss": 3.0}, {"step": 9, "loss": 3.0})
    newest_values(path)
    other = path.with_name("other")
    append(other, *({"step": step, "loss": 7.0} for step in range(steps)))
    other.replace(path)

    assert newest_values(path) == {"step": steps - 1, "loss": 7.0}
