"""Classification: which rows say a class, and how they become tokens."""

from __future__ import annotations

import pytest

from tests.trainer.jobs import TINY_LLAMA
from tests.trainer.methods.classifying import SETTINGS, written
from trainer.contract.errors import ConfigError, DataError

pytestmark = [
    pytest.mark.xdist_group("torch"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]


@pytest.mark.parametrize(
    ("rows", "settings", "problem"),
    [
        ([("x", "a")] * 4, {}, "every row has the label 'a'"),
        ([("x", 0.5), ("y", 1)], {}, r"label: is 0\.5; give the name or whole number"),
        ([("x", None), ("y", 1)], {}, "label: is null"),
        ([("x", " "), ("y", "a")], {}, "label: is empty"),
        ([("x", "a"), ("y", {"b": 1})], {}, "label: is an object"),
        ([("x", "a" * 201), ("y", "b")], {}, "has 201 characters"),
        ([("x", "a"), ("y", "c")], {"labels": ["a", "b"]}, "1 rows have the label 'c'"),
        ([("x", "a"), ("y", "b")], {"class_weights": {"c": 2}}, "no row has the label 'c'"),
        (
            [("x", 1), ("y", "1.0"), ("z", 0)],
            {},
            "labels '1', '1.0' are one number, written in two",
        ),
        ([("x", "a"), ("y", "1"), ("z", "01")], {}, "labels '01', '1' are one number"),
    ],
)
def test_rows_that_say_no_class_are_refused_before_anything_is_loaded(
    tmp_path, make_config, rows, settings, problem
):
    from trainer.preflight.table import Needs, Subject, refuse
    from trainer.preflight.training import TRAINING

    path = written(tmp_path / "rows.jsonl", [{"text": t, "label": label} for t, label in rows])
    config = make_config(path, method="classify", **settings)
    checks = [check for check in TRAINING if check.name == "dataset"]

    with pytest.raises((DataError, ConfigError), match=problem):
        refuse(checks, Subject(config), {Needs.ROWS})


def test_held_out_rows_with_a_label_of_their_own_are_refused(tmp_path, make_job):
    data = {
        "path": written(tmp_path / "a.jsonl", [{"text": "x", "label": i % 2} for i in range(8)]),
        "eval_path": written(tmp_path / "b.jsonl", [{"text": "x", "label": 2}]),
    }
    job = make_job(tmp_path / "job", **{**SETTINGS, "data": data})

    with pytest.raises(DataError, match="evaluate on have the label '2', which no row to train on"):
        job.train()


def test_labels_are_sorted_and_one_number_is_one_label():
    from trainer.data.labelled import in_order, labels_of

    assert in_order({"10", "9", "-1"}) == ["-1", "9", "10"]
    assert in_order({"10", "9", "b"}) == ["10", "9", "b"]
    values = [1, 1.0, "1", " 1 ", True, [1, "1", "a"], [], '["x", "y"]', "[other]", [0, 1]]
    assert [labels_of(value, "label")[0] for value in values] == [
        *[("1",)] * 4,
        ("true",),
        ("1", "a"),
        (),
        ("x", "y"),
        ("[other]",),
        ("0", "1"),
    ]
    assert labels_of('["x"]', "label")[1]


@pytest.mark.parametrize("given", [[0, 1, 0], [1.0, 1.0], [True, False, False], "['x', 'y']"])
def test_a_list_of_labels_is_one_of_names_and_is_read_as_one(given):
    from trainer.data.labelled import labels_of
    from trainer.data.problems import RowProblem

    with pytest.raises(
        RowProblem, match=r"a 0 or 1 for each of \d classes|a list that is not JSON"
    ):
        labels_of(given, "label")


def test_rows_that_all_have_all_labels_are_refused(tmp_path, make_job):
    rows = [{"text": "x", "label": [i % 2, 1 - i % 2]} for i in range(4)]
    data = {"path": written(tmp_path / "a.jsonl", rows)}
    job = make_job(tmp_path / "job", **{**SETTINGS, "data": data})

    with pytest.raises(DataError, match="every row has all the labels '0', '1'"):
        job.train()


def test_a_class_that_is_all_held_out_is_named(tmp_path, make_config, write_rows, tokenizer):
    from trainer.data.tokenization import prepare_datasets
    from trainer.training.settling import settled, unlearned

    rows = [{"text": "x", "label": name} for name in "abababc"]
    dataset = {"path": str(write_rows(rows)), "eval_fraction": 0.3}
    said = set()
    for seed in range(12):
        config = make_config(dataset, method="classify", model=str(TINY_LLAMA), seed=seed)
        data = prepare_datasets(config, tokenizer, tmp_path / str(seed))
        found = unlearned(settled(config, data), data, tokenizer)
        assert bool(found) == (["c"] not in data.train["label"])
        said.update(found)

    assert said == {"training.labels: no row to train on has 'c', so it is not learned."}


def test_a_job_may_write_labels_as_rows_do(make_config):
    config = make_config("a", method="classify", labels=[0, True, " b ", 2.0], class_weights={0: 5})

    assert (config.labels, config.class_weights) == (["0", "true", "b", "2"], {"0": 5.0})


def test_tokens_are_those_that_the_tokenizer_gives_and_cut_where_the_model_ends(
    tmp_path, make_config, write_rows, build_tokenizer
):
    from trainer.data.tokenization import prepare_datasets

    tokenizer = build_tokenizer(adds_bos=True)
    saved = tokenizer.backend_tokenizer.to_str()
    rows = [
        {"text_a": "the answer is here", "text_b": "user", "label": "a"},
        {"text_a": "x " * 40, "text_b": "assistant", "label": "b"},
    ]
    config = make_config(write_rows(rows), method="classify", max_length=16)

    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    first, second = data.train["input_ids"]
    assert first == tokenizer("the answer is here\n\nuser")["input_ids"]
    assert len(second) == 16
    assert data.facts["truncated"] == 1
    assert data.facts["labels"] == {"a": 1, "b": 1}
    assert tokenizer.backend_tokenizer.to_str() == saved, "it cuts for nobody else"


def test_a_row_is_shown_with_its_label(make_config, write_rows, tokenizer):
    from trainer.data.picture import pictures

    config = make_config(write_rows([{"text": "hm", "label": ["x", "y"]}]), method="classify")

    [row] = pictures(config, tokenizer, 1, 1)

    assert list(row.texts) == ["label x, y"]
