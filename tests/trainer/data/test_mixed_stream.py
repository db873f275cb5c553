"""Several streams as one: in proportion, in an order that the seed decides, from any row on."""

import json
from collections import Counter

import pytest

from trainer.config import TrainingConfig
from trainer.data import inspect_dataset, mixed_stream, streaming
from trainer.data.mixed_stream import _taken_after
from trainer.data.tally import told_at_start
from trainer.data.tokenization import prepare_datasets


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(streaming, "PIECE", 4)
    monkeypatch.setattr(mixed_stream, "BLOCK", 10)


@pytest.fixture
def three(make_config, write_rows):
    """Return a config of three streams, of which the second has rows with weights."""
    paths = [
        str(
            write_rows(
                [{"text": f"{name}{i}", "weight": weight} for i in range(count)], f"{name}.jsonl"
            )
        )
        for name, count, weight in (("a", 9, 1), ("b", 3, 2), ("c", 6, None))
    ]
    sources = [{"path": p, "share": s} for p, s in zip(paths, (0.65, 0.3, 0.05), strict=True)]
    sources[1]["eval_path"] = paths[1]
    dataset = {"sources": sources, "streaming": True}
    return make_config(dataset, max_steps=10, per_device_train_batch_size=4)


def read(rows, tokenizer, start=0):
    found = [rows[i]["input_ids"] for i in range(start, len(rows))]
    return [tokenizer.decode(ids).removesuffix("</s>") for ids in found]


def test_shares_hold_within_every_block_and_nothing_is_passed_over(three, tokenizer, tmp_path):
    data = prepare_datasets(three, tokenizer, tmp_path / "cache")

    found = read(data.train, tokenizer)

    assert len(found) == 40
    blocks = [Counter(text[0] for text in found[i : i + 10]) for i in range(0, 40, 10)]
    assert all(block["a"] in {6, 7} and block["b"] == 3 for block in blocks)
    assert sum(blocks, Counter()) == {"a": 26, "b": 12, "c": 2}
    of_b = [text for text in found if text[0] == "b"]
    assert [sorted(of_b[i : i + 3]) for i in range(0, 12, 3)] == [["b0", "b1", "b2"]] * 4
    assert found != sorted(found)
    assert sorted(data.eval) == ["b"]


def test_a_mix_of_streams_goes_on_where_it_was(three, tokenizer, tmp_path):
    whole = prepare_datasets(three, tokenizer, tmp_path / "cache").train
    expected = read(whole, tokenizer)
    before = prepare_datasets(three, tokenizer, tmp_path / "cache").train
    for i in range(17):
        before[i]
    again = prepare_datasets(three, tokenizer, tmp_path / "cache").train
    again.restore(json.loads(json.dumps(before.state())))

    assert read(again, tokenizer, 17) == expected[17:]
    assert again.facts == whole.facts


def test_weights_of_one_are_its_alone(three, tokenizer, tmp_path):
    rows = prepare_datasets(three, tokenizer, tmp_path / "cache").train

    weights = {
        (tokenizer.decode(row["input_ids"])[0], row.get("weight", 1))
        for row in (rows[i] for i in range(40))
    }

    assert weights == {("a", 1), ("b", 2), ("c", 1)}


def test_what_is_read_of_each_is_told(three, tokenizer, tmp_path):
    data = prepare_datasets(three, tokenizer, tmp_path / "cache")

    lines = told_at_start(data.facts, 64)

    assert lines[0].startswith("a stream, shuffled within pieces of 4 rows; of the first: 11 rows")
    assert lines[1] == "mixed: a: 65.0% of the rows, as they come"
    assert [source["train_rows"] for source in data.facts["sources"]] == [26, 12, 2]
    assert inspect_dataset(three).rows == 18


@pytest.mark.parametrize("shares", [[0.999, 0.0005, 0.0005], [1 / 3, 1 / 3, 1 / 3], [1.0]])
def test_over_many_blocks_no_share_is_missed_by_more_than_a_row(shares):
    taken = [0] * len(shares)
    for block in range(1, 300):
        before, taken = taken, _taken_after(taken, shares)
        assert sum(taken) == 10 * block
        assert all(to >= since for since, to in zip(before, taken, strict=True))
        for share, count in zip(shares, taken, strict=True):
            assert abs(share * 10 * block - count) <= 1


@pytest.mark.parametrize(
    ("sources", "problem"),
    [
        (["a", "b"], "how many rows each of several data sets has is not known: give all a share"),
        ([{"path": "a", "share": 1, "eval_fraction": 0.1}], "a part of a stream cannot be drawn"),
        ([{"path": "a", "share": 1, "streaming": True}], "sources.0.streaming"),
    ],
)
def test_what_a_mix_of_streams_cannot_have_is_refused(sources, problem):
    dataset = {"sources": sources, "streaming": True}
    with pytest.raises(ValueError, match=problem):
        TrainingConfig.model_validate({"model": "m", "dataset": dataset, "max_steps": 3})
