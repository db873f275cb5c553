"""What is to be trained on, and what to be evaluated on: never the one for the other."""

import json

import pytest
from pydantic import ValidationError

from trainer.contract.errors import DataError
from trainer.data import inspect_dataset
from trainer.data.reading import files_of, open_evaluation, open_training
from trainer.data.splits import split_of
from trainer.data.tokenization import prepare_datasets
from trainer.preflight.table import Needs, Subject, walk
from trainer.preflight.training import TRAINING


@pytest.fixture
def folder(tmp_path):
    """Return a maker of folders with one row a file, which says its name."""

    def make(*names):
        for name in names:
            path = tmp_path / "set" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"text": name}) + "\n")
        return tmp_path / "set"

    return make


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("train-00000-of-00002.parquet", "train"),
        ("my_training.csv", "train"),
        ("dev.json", "validation"),
        ("valid/a.jsonl", "validation"),
        ("chats.val.jsonl.gz", "validation"),
        ("Test.jsonl", "test"),
        ("test/train.jsonl", "test"),
        ("evaluation.jsonl", "test"),
        ("latest.jsonl", None),
        ("trainer-logs.jsonl", None),
        ("devices.csv", None),
    ],
)
def test_a_split_is_told_from_whole_words(name, split):
    assert split_of(name) == split


def test_a_folder_is_trained_on_without_what_it_holds_out(folder, make_config):
    path = folder("train.jsonl", "more.jsonl", "validation.jsonl", "test.jsonl")
    (path / "old.arrow").write_text("x")
    (path / "README.md").write_text("x")

    report = inspect_dataset(make_config(path))

    assert report.files == ("more.jsonl", "train.jsonl")
    assert report.unread_files == ("test.jsonl", "validation.jsonl", "old.arrow")
    assert files_of(path, "dataset.path") == (
        *("more.jsonl", "test.jsonl", "train.jsonl", "validation.jsonl"),
    )


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({"eval_path": True}, ("dev.jsonl",)),
        ({"eval_split": "test"}, ("test.jsonl",)),
        ({"eval_split": "dev"}, ("dev.jsonl",)),
        ({"eval_path": True, "eval_split": "test"}, ("test.jsonl",)),
        ({"split": "test", "eval_split": "train"}, ("train.jsonl",)),
    ],
)
def test_the_evaluation_has_a_split_of_its_own(folder, make_config, settings, files):
    path = folder("train.jsonl", "dev.jsonl", "test.jsonl")
    if "eval_path" in settings:
        settings = {**settings, "eval_path": str(path)}
    config = make_config({"path": str(path), **settings})

    assert open_evaluation(config.dataset).files == files
    assert inspect_dataset(config).evaluation.files == files
    assert set(open_training(config.dataset).files).isdisjoint(files)


def test_a_split_alone_makes_held_out_rows(folder, make_config, tokenizer, tmp_path):
    path = folder("train.jsonl", "test.jsonl")
    config = make_config({"path": str(path), "eval_split": "test"})

    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    assert tokenizer.decode(data.eval[0]["input_ids"]) == "test.jsonl</s>"
    assert (data.facts["train_rows"], data.facts["eval_rows"]) == (1, 1)


def test_a_folder_of_no_split_is_read_whole_by_either(folder, make_config):
    path = folder("a.jsonl", "b.jsonl")
    dataset = make_config({"path": "other.jsonl", "eval_path": str(path)}).dataset

    assert open_training(make_config(path).dataset).files == ("a.jsonl", "b.jsonl")
    assert open_evaluation(dataset).files == ("a.jsonl", "b.jsonl")


@pytest.mark.parametrize(
    ("names", "settings", "problem"),
    [
        (("test.jsonl",), {}, "dataset.path = .* no file is of the split train; there are test"),
        (
            ("train.jsonl", "b.jsonl"),
            {"eval_split": "test"},
            "dataset.eval_path = .* no file is of the split test; there are train",
        ),
        (("a.jsonl",), {"eval_split": "test"}, "dataset.eval_split = 'test': .* has no splits"),
        (("a.jsonl",), {"split": "test"}, "dataset.split = 'test': .* has no splits"),
        (
            ("train.jsonl", "b.jsonl"),
            {"eval_split": "train"},
            "dataset.eval_path = .* holds the rows to train on",
        ),
    ],
)
def test_a_split_that_is_not_there_is_refused(folder, make_config, names, settings, problem):
    config = make_config({"path": str(folder(*names)), **settings})

    with pytest.raises(DataError, match=problem):
        inspect_dataset(config)


def test_an_evaluation_is_given_in_one_way(make_config):
    with pytest.raises(ValidationError, match="give eval_split or eval_fraction, not both"):
        make_config({"path": "x", "eval_split": "test", "eval_fraction": 0.1})
    with pytest.raises(ValidationError, match="early_stopping_patience needs held-out rows"):
        make_config({"path": "x"}, early_stopping_patience=1)
    make_config({"path": "x", "eval_split": "test"}, early_stopping_patience=1)


def test_only_files_that_nothing_reads_are_named(folder, make_config):
    path = folder("train.jsonl", "test.jsonl", "validation.jsonl")
    config = make_config({"path": str(path), "eval_split": "test"})

    [dataset] = [r for r in walk(TRAINING, Subject(config), {Needs.ROWS}) if r.name == "dataset"]

    assert dataset.found.text.endswith("1 rows to evaluate on; files not read: 'validation.jsonl'")
