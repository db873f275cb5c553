import json
import subprocess
import sys
import time

import pytest

from trainer.contract.errors import DataError
from trainer.data import inspect_dataset


def test_a_report_tells_what_the_dataset_holds(make_config, write_rows):
    path = write_rows([{"prompt": "ab", "completion": "cd"}, {"prompt": "a", "completion": "b"}])

    report = inspect_dataset(make_config(path))

    assert report.files == ("train.jsonl",)
    assert (report.rows, report.bad_rows, report.format) == (2, 0, "prompt_completion")
    assert (report.mean_characters, report.max_characters) == (3.0, 4)
    assert report.bytes == path.stat().st_size
    assert len(report.sha256) == 64


def test_one_bad_row_in_ten_thousand_is_found(make_config, write_rows):
    rows = [{"text": f"row {i}"} for i in range(10_000)]
    rows[7_122] = {"text": 5}

    with pytest.raises(DataError) as caught:
        inspect_dataset(make_config(write_rows(rows)))

    summary, line, _ = caught.value.message.split("\n")
    assert summary.startswith("1 of 10,000 rows cannot be used")
    assert line == 'train.jsonl:7123: text: is the number 5, not a text; write it as "text"'


def test_the_first_twenty_bad_rows_are_listed_and_the_rest_counted(make_config, write_rows):
    rows = [{"instruction": "x", "output": "y"}] + [{"instruction": "x"}] * 37

    with pytest.raises(DataError) as caught:
        inspect_dataset(make_config(write_rows(rows)))

    lines = caught.value.message.splitlines()
    assert lines[0].startswith("37 of 38 rows cannot be used")
    assert [line.partition(": ")[0] for line in lines[1:21]] == [
        f"train.jsonl:{number}" for number in range(2, 22)
    ]
    assert lines[21:] == ["and 17 more."]


def test_rows_after_max_rows_are_not_looked_at(make_config, write_rows):
    path = write_rows([{"text": "x"}, {"text": "y"}, {"text": 3}])

    assert inspect_dataset(make_config({"path": str(path), "max_rows": 2})).rows == 2


def test_bad_rows_of_the_held_out_file_count_too(make_config, write_rows):
    path = write_rows([{"text": "x"}])
    good = write_rows([{"text": "y"}, {"text": "z"}], "good.jsonl")
    bad = write_rows([{"text": ""}], "bad.jsonl")

    report = inspect_dataset(make_config({"path": str(path), "eval_path": str(good)}))

    assert report.evaluation is not None
    assert report.evaluation.rows == 2
    with pytest.raises(DataError, match=r"bad.jsonl:1: text: is empty"):
        inspect_dataset(make_config({"path": str(path), "eval_path": str(bad)}))


@pytest.mark.thorough
def test_a_hundred_thousand_rows_take_seconds_and_tell_their_progress(make_config, write_rows):
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "x" * 200}]
    path = write_rows({"messages": turns} for _ in range(100_000))
    told = []

    begun = time.process_time()
    report = inspect_dataset(make_config(path), told.append)

    assert time.process_time() - begun < 15  # CPU seconds; about 2 on a usual machine
    assert report.rows == 100_000
    assert told == sorted(told)
    assert (len(told), told[-1]) == (101, 100_000)


def test_inspection_imports_no_torch(write_rows):
    path = write_rows([{"text": "x"}])
    script = """
import json, sys
from trainer.config import TrainingConfig
from trainer.data import inspect_dataset
inspect_dataset(TrainingConfig(model="m", dataset=sys.argv[1]))
print(json.dumps([name for name in ("torch", "transformers", "datasets", "pandas") if name in sys.modules]))
"""

    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
    )

    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"instruction": "problm", "output": "solution"}, "train.jsonl:1 has no 'problm'; it has"),
        ({"input": "contxt"}, "no row of .* has 'contxt'; the first has 'instruction', 'output'"),
        ({"system": "persona"}, "no row of .* has 'persona'"),
    ],
)
def test_a_column_that_the_data_lack_is_refused_by_name(make_config, write_rows, columns, problem):
    row = (
        {"instruction": "x", "output": "y"} if len(columns) == 1 else {"problem": 1, "solution": 2}
    )
    path = write_rows([row] * 3)

    with pytest.raises(DataError, match=f"^dataset.columns: {problem}"):
        inspect_dataset(make_config({"path": str(path), "columns": columns}))


def test_a_column_may_first_come_in_a_later_row(make_config, write_rows):
    rows = [{"instruction": "x", "output": "y"}, {"instruction": "x", "output": "y", "about": "z"}]

    report = inspect_dataset(
        make_config({"path": str(write_rows(rows)), "columns": {"input": "about"}})
    )

    assert (report.rows, report.unread) == (2, {})
    first = {"path": str(write_rows(rows)), "columns": {"input": "about"}, "max_rows": 1}
    assert inspect_dataset(make_config(first)).rows == 1
