"""Several data sets as one: which rows an epoch has of each, and in which order."""

import json
from collections import Counter

import pytest

from trainer.config import SourceConfig
from trainer.config.explain import validated
from trainer.config.training import TrainingConfig
from trainer.contract.errors import ConfigError, DataError
from trainer.data import inspect_dataset
from trainer.data.mixing import mixed_order, rows_of_epoch
from trainer.data.picture import pictures
from trainer.data.tally import Tally, merged, mix_told, remarks
from trainer.data.tokenization import prepare_datasets


def sources(**given):
    [(name, values)] = given.items()
    return [SourceConfig(path="p", **{name: value}) for value in values]


@pytest.fixture
def three(write_rows):
    """Return the files of three data sets: 8, 4 and 2 rows, each of another layout."""
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"q{i}"},
                {"role": "assistant", "content": f"c{i}"},
            ]
        }
        for i in range(8)
    ]
    sums = [{"frage": f"q{i}", "antwort": f"s{i}"} for i in range(4)]
    texts = [{"text": f"t{i}"} for i in range(2)]
    return [
        str(write_rows(rows, f"{name}.jsonl"))
        for name, rows in (("chats", chats), ("sums", sums), ("texts", texts))
    ]


def listed(three, *further):
    entries = [{"path": path} for path in three]
    entries[1]["columns"] = {"instruction": "frage", "output": "antwort"}
    return [entry | more for entry, more in zip(entries, further or [{}] * 3, strict=True)]


def answers(data, tokenizer):
    texts = tokenizer.batch_decode(data.train["input_ids"][:])
    return [
        next(word for word in text.replace("<", " ").split() if word[0] in "cst")
        for text in (t.partition("assistant")[2] or t for t in texts)
    ]


def test_shares_end_an_epoch_where_the_first_data_set_has_been_seen_whole():
    assert rows_of_epoch([700, 5000], sources(share=[0.7, 0.3])) == [700, 300]
    assert rows_of_epoch([7, 5000, 10], sources(share=[0.5, 0.25, 0.25])) == [7, 4, 4]
    assert rows_of_epoch([1, 9], sources(share=[0.001, 0.999])) == [1, 9]


def test_repeats_say_how_often_each_is_seen():
    assert rows_of_epoch([10, 10, 10], sources(repeats=[None, 2.5, 0.1])) == [10, 25, 1]


def test_the_order_is_decided_by_the_seed_alone_and_takes_whole_rounds_first():
    order = mixed_order([4, 3], [10, 2], seed=1)

    assert order == mixed_order([4, 3], [10, 2], seed=1)
    assert order != mixed_order([4, 3], [10, 2], seed=2)
    assert order != sorted(order)
    seen = Counter(order)
    assert sum(seen[row] for row in range(4)) == 10
    assert {seen[row] for row in range(4)} == {2, 3}
    assert [seen[row] for row in range(4, 7)].count(1) == 2


def test_data_sets_of_several_layouts_make_one(three, make_config, tokenizer, tmp_path):
    config = make_config(listed(three, {}, {"repeats": 2, "name": "maths"}, {}))

    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    found = answers(data, tokenizer)
    assert Counter(found) == {
        **{f"c{i}": 1 for i in range(8)},
        **{f"s{i}": 2 for i in range(4)},
        **{f"t{i}": 1 for i in range(2)},
    }
    assert found != sorted(found)
    assert found == answers(prepare_datasets(config, tokenizer, tmp_path / "other"), tokenizer)
    assert [each["name"] for each in data.facts["sources"]] == ["chats", "maths", "texts"]
    assert data.facts["train_rows"] == 18
    assert data.facts["format"] == "messages and instruction and text"
    assert mix_told(data.facts) == [
        "chats: 44.4% of an epoch, 8 rows of 8",
        "maths: 44.4% of an epoch, 8 rows of 4, 2 times each",
        "texts: 11.1% of an epoch, 2 rows of 2",
    ]


def test_each_data_set_holds_out_rows_of_its_own(three, make_config, tokenizer, tmp_path):
    held_out = {"eval_fraction": 0.25}, {"eval_path": three[1]}, {}
    config = make_config(listed(three, *held_out))

    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    assert {name: len(rows) for name, rows in data.eval.items()} == {"chats": 2, "sums": 4}
    assert data.facts["eval_rows"] == 6
    assert data.facts["evaluation"]["rows"] == 4
    assert len(set(answers(data, tokenizer))) == 6 + 4 + 2
    report = inspect_dataset(config)
    assert (report.rows, report.evaluation.rows) == (14, 4)
    assert [each.rows for each in report.sources] == [8, 4, 2]


def test_what_became_of_the_rows_of_each_is_added_up():
    one = Tally(
        rows=3, kept=2, tokens=9, dropped=1, longest=5, why={"a": 1}, weighted=1, format="text"
    )
    two = Tally(
        rows=2, kept=1, tokens=4, dropped=1, longest=4, why={"a": 1}, problems=["p"], format="text"
    )

    whole = merged([one, two])

    assert (whole.rows, whole.kept, whole.tokens, whole.longest, whole.weighted) == (5, 3, 13, 5, 1)
    assert (whole.why, whole.problems, whole.format) == ({"a": 2}, ["p"], "text")
    assert len(whole.sha256) == 64


def test_weights_of_rows_of_one_data_set_count_in_the_mix(
    write_rows, make_config, tokenizer, tmp_path
):
    rows = [[{"text": "a", "weight": 2}], [{"text": "b"}]]
    paths = [str(write_rows(each, f"{i}.jsonl")) for i, each in enumerate(rows)]

    data = prepare_datasets(make_config(paths), tokenizer, tmp_path / "cache")

    assert sorted(data.train["weight"][:]) == [1, 2]


def test_without_held_out_rows_there_is_no_evaluation(three, make_config, tokenizer, tmp_path):
    data = prepare_datasets(make_config(listed(three)), tokenizer, tmp_path / "cache")

    assert data.eval is None


def test_rows_are_counted_through_all_data_sets(three, make_config, tokenizer):
    config = make_config(listed(three, {"max_rows": 2}, {}, {}))

    found = pictures(config, tokenizer, first=2, count=3)

    assert [picture.place for picture in found] == ["chats.jsonl:2", "sums.jsonl:1", "sums.jsonl:2"]


def test_a_bad_row_of_any_of_them_is_refused(three, make_config, write_rows):
    bad = write_rows([{"text": "t"}, {"text": 3}], "bad.jsonl")
    config = make_config([*listed(three), {"path": str(bad)}])

    with pytest.raises(DataError, match=r"data set bad: (?s:.*)bad.jsonl:2: text: is the number 3"):
        inspect_dataset(config)


def test_good_and_bad_answers_may_be_data_sets_of_their_own(make_config, write_rows):
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in (True, False)]
    paths = [str(write_rows([row], f"{row['label']}.jsonl")) for row in rows]

    assert inspect_dataset(make_config(paths, method="kto")).rows == 2
    with pytest.raises(DataError, match="every row is labelled true"):
        inspect_dataset(make_config(paths[:1] * 2, method="kto"))


def test_prompts_whose_columns_are_of_different_kinds_are_refused_together(
    make_config, write_rows, tokenizer, tmp_path
):
    paths = [
        str(write_rows([{"prompt": "a", "gold": gold}], f"{i}.jsonl"))
        for i, gold in enumerate(([1], {"x": 1}))
    ]
    config = make_config(paths, method="grpo", reward_functions=["length"])

    with pytest.raises(DataError, match="the data sets do not go together"):
        prepare_datasets(config, tokenizer, tmp_path / "cache")


def test_a_column_that_one_data_set_lacks_is_empty_there(
    make_config, write_rows, tokenizer, tmp_path
):
    rows = [{"prompt": "a", "gold": 1}, {"prompt": "b", "hint": "h"}]
    paths = [str(write_rows([row], f"{i}.jsonl")) for i, row in enumerate(rows)]
    config = make_config(paths, method="grpo", reward_functions=["length"])

    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    found = sorted(data.train.to_list(), key=lambda row: row["prompt"])
    assert found == [
        {"prompt": "a", "gold": 1, "hint": None},
        {"prompt": "b", "gold": None, "hint": "h"},
    ]


def test_rows_that_one_holds_out_and_another_trains_on_are_told(
    three, make_config, tokenizer, tmp_path
):
    config = make_config(listed(three, {"eval_path": three[2]}, {}, {}))

    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    told = "The rows of chats to evaluate on are those that are trained on as texts."
    assert told in remarks(data.facts)


def test_names_are_never_alike(make_config):
    paths = ["a/chats.jsonl", "b/chats.jsonl.gz", "c/chats.csv", "org/größe:x", "org/..."]
    given = [{"path": path} for path in paths]
    given[2]["name"] = "chats-2"

    names = make_config(given).dataset.names()

    assert names == ["chats", "chats-3", "chats-2", "gr_e_x", "data"]


@pytest.mark.parametrize(
    ("dataset", "problem"),
    [
        ([], "dataset = []: is an empty list: name a data set"),
        ({}, "dataset: path is missing"),
        ({"path": ""}, "dataset: path is missing"),
        (
            [{"path": "a", "weight": 0.7}],
            "dataset.sources.0.weight is not a field; did you mean share?",
        ),
        (
            [{"path": "a", "share": 0.5}, "b"],
            "share is missing for 'b': give it to all, or to none",
        ),
        (
            [{"path": "a", "share": 0.5}, {"path": "b", "share": 0.4}],
            "share: all together are 0.9, and must be 1",
        ),
        (
            [{"path": "a", "share": 0.5}, {"path": "b", "share": 0.5, "repeats": 2}],
            "repeats beside share",
        ),
        ([{"path": "a", "share": 0}], "dataset.sources.0.share = 0: must be greater than 0"),
        ([{"path": "a", "share": "nan"}, "b"], "dataset.sources.0.share = 'nan': must be"),
        ([{"path": "a", "name": "x"}, {"path": "b", "name": "x"}], "name = 'x' is given to two"),
        ([{"path": "a", "name": "a b"}], "dataset.sources.0.name = 'a b': must be 1 to 63"),
        ([["a"]], "dataset.sources.0 = ['a']: must be a valid"),
        ([{"path": "a", "streaming": True}], "write {streaming: true, sources: [the list]}"),
        ({"path": "a", "share": 0.5}, "share = 0.5 is for one of several data sets"),
        ({"path": "a", "sources": ["b"]}, "path = 'a' is given beside sources"),
        (
            {"eval_fraction": 0.1, "sources": [{"path": "b"}]},
            "eval_fraction = 0.1 is given beside sources: give it in each of the sources",
        ),
    ],
)
def test_what_is_no_mix_is_refused_with_its_field(dataset, problem):
    with pytest.raises(ConfigError) as refused:
        validated(TrainingConfig, {"model": "m", "dataset": dataset}, "job")

    assert problem in refused.value.message


def test_a_mix_is_for_the_built_in_trainer(make_config):
    with pytest.raises(ValueError, match="mixed for trainer: builtin alone, not for axolotl"):
        make_config(["a.jsonl", "b.jsonl"], trainer="axolotl")


def test_a_mix_that_is_written_out_is_read_back(make_config):
    config = make_config(["a.jsonl", {"path": "b.jsonl", "eval_fraction": 0.1}])

    again = TrainingConfig.model_validate(json.loads(config.model_dump_json()))

    assert again == config
