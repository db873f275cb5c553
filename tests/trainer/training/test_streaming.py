"""Rows that are read as training comes to them: all of them, in order, and exactly after a pause."""

import json
import pickle
import shutil

import pytest

from tests.trainer.jobs import PausesAfter
from trainer.config import TrainingConfig
from trainer.contract.errors import DataError
from trainer.contract.job_directory import Desired, JobState
from trainer.data import inspect_dataset, streaming
from trainer.data.reading import open_training
from trainer.data.streaming import Streamed
from trainer.data.tokenization import prepare_datasets

pytestmark = pytest.mark.xdist_group("torch")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(streaming, "PIECE", 4)


@pytest.fixture
def texts(write_rows):
    """Return a file of ten texts of which two are dropped: they are too short to learn from."""
    rows = [{"text": f"t{i}"} for i in range(10)]
    rows[2] = rows[7] = {"messages": []}  # formatting leaves them out
    return write_rows(rows)


FORMATTING = "def known(row):\n    return row if 'text' in row else None\n"


def config_of(make_config, path, tmp_path, **dataset):
    (tmp_path / "own.py").write_text(FORMATTING)
    return make_config(
        {"path": str(path), "streaming": True, **dataset},
        max_steps=6,
        per_device_train_batch_size=4,
        formatting=f"{tmp_path / 'own.py'}:known",
    )


def read(stream, tokenizer, start=0):
    return [
        tokenizer.decode(stream[i]["input_ids"]).removesuffix("</s>")
        for i in range(start, len(stream))
    ]


def test_every_pass_has_all_rows_and_pieces_keep_their_order(
    texts, make_config, tokenizer, tmp_path
):
    config = config_of(make_config, texts, tmp_path)
    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    found = read(data.train, tokenizer)

    assert len(found) == 24
    pieces = [found[:4], found[4:8], found[8:12], found[12:16], found[16:20]]
    assert [sorted(piece) for piece in pieces[:2]] == [
        ["t0", "t1", "t3", "t4"],
        ["t5", "t6", "t8", "t9"],
    ]
    assert [sorted(piece) for piece in pieces[2:4]] == [sorted(piece) for piece in pieces[:2]]
    assert len({tuple(piece) for piece in pieces}) == 5  # each is shuffled in its own way
    facts = data.train.facts
    assert (facts["rows"], facts["kept"], facts["dropped"]) == (30, 24, 6)
    assert facts["sha256"] == data.facts["sha256"] == open_training(config.dataset).sha256()


@pytest.mark.parametrize("start", [0, 3, 4, 9, 17])
def test_a_resumed_stream_goes_on_where_it_was(texts, make_config, tokenizer, tmp_path, start):
    config = config_of(make_config, texts, tmp_path)
    whole = prepare_datasets(config, tokenizer, tmp_path / "cache").train
    expected = read(whole, tokenizer)
    before = prepare_datasets(config, tokenizer, tmp_path / "cache").train
    for i in range(start):
        before[i]
    state = json.loads(json.dumps(before.state()))
    again = prepare_datasets(config, tokenizer, tmp_path / "cache").train
    again.restore(state)

    assert read(again, tokenizer, start) == expected[start:]
    assert again.facts == whole.facts


def test_what_was_read_is_not_tokenised_again(texts, make_config, tokenizer, tmp_path, monkeypatch):
    config = config_of(make_config, texts, tmp_path)
    whole = prepare_datasets(config, tokenizer, tmp_path / "cache").train
    expected = read(whole, tokenizer)
    again = prepare_datasets(config, tokenizer, tmp_path / "cache").train
    again.restore(whole.state())
    seen = []
    plain = Streamed._tokenised
    monkeypatch.setattr(Streamed, "_tokenised", lambda s, n: seen.append(n) or plain(s, n))

    assert read(again, tokenizer, 21) == expected[21:]
    assert len(seen) == 1


def test_without_its_notes_a_stream_comes_to_the_same(texts, make_config, tokenizer, tmp_path):
    config = config_of(make_config, texts, tmp_path)
    whole = prepare_datasets(config, tokenizer, tmp_path / "cache").train
    expected = read(whole, tokenizer)
    worker = pickle.loads(pickle.dumps(whole))  # noqa: S301 - as a data loader sends it

    assert whole[1]["input_ids"] == worker[1]["input_ids"]
    assert read(worker, tokenizer, 13) == expected[13:]


def test_at_most_so_many_rows_of_a_pass_are_read(texts, make_config, tokenizer, tmp_path):
    config = config_of(make_config, texts, tmp_path, max_rows=5)
    found = read(prepare_datasets(config, tokenizer, tmp_path / "cache").train, tokenizer)

    assert sorted(found[:4]) == ["t0", "t1", "t3", "t4"]
    assert found[4] == "t5"
    assert sorted(found[5:9]) == ["t0", "t1", "t3", "t4"]


@pytest.mark.parametrize("on_bad_row", ["refuse", "skip"])
def test_a_bad_row_far_behind_is_met_when_it_is_read(
    make_config, write_rows, tokenizer, tmp_path, on_bad_row
):
    rows = [{"text": f"t{i}"} for i in range(6)]
    rows[5] = {"text": 5}
    config = config_of(make_config, write_rows(rows), tmp_path, on_bad_row=on_bad_row)
    data = prepare_datasets(config, tokenizer, tmp_path / "cache")

    assert data.facts["bad"] == 0
    assert len([data.train[i] for i in range(4)]) == 4
    if on_bad_row == "skip":
        data.train[5]
        assert data.train.facts["bad"] == 1
        return
    with pytest.raises(DataError, match=r"train.jsonl:6: text: is the number 5"):
        data.train[4]


def test_rows_of_which_nothing_can_be_learned_end_a_stream(
    make_config, write_rows, tokenizer, tmp_path
):
    long = {"prompt": "x " * 200, "completion": "y"}
    config = make_config(
        {"path": str(write_rows([long] * 9)), "streaming": True}, max_steps=1, max_length=64
    )

    with pytest.raises(
        DataError, match="none of 9 rows can be learned from within max_length = 64"
    ):
        prepare_datasets(config, tokenizer, tmp_path / "cache").train[0]


PACKED = {"packing": True, "max_length": 32}  # a sequence a piece, so that a batch has one of each


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, [1, 1, 2, 2]), pytest.param(PACKED, [1.5] * 4, marks=pytest.mark.thorough)],
)
def test_weights_that_begin_far_behind_count_from_there_on(
    make_job, write_rows, tmp_path, settings, expected
):
    rows = [{"text": f"the loss of step {i}", "weight": 1 if i < 4 else 2} for i in range(8)]
    weighted, plain = (
        {"path": str(write_rows(each, name)), "streaming": True}
        for name, each in (
            ("weighted.jsonl", rows),
            ("plain.jsonl", [{"text": row["text"]} for row in rows]),
        )
    )
    jobs = [
        make_job(tmp_path / name, data=data, max_steps=4, learning_rate=1e-9, **settings)
        for name, data in (("weighted", weighted), ("plain", plain))
    ]
    for job in jobs:
        assert job.train() is JobState.COMPLETED

    losses = [[job.metrics[step]["train_loss"] for step in range(1, 5)] for job in jobs]
    times = [a / b for a, b in zip(*losses, strict=True)]
    assert times == pytest.approx(expected, rel=1e-3)


def test_a_first_look_reads_no_more_than_it_must(make_config, write_rows, monkeypatch):
    monkeypatch.setattr("trainer.data.validation.CHECKED", 3)
    path = write_rows([{"text": "a"}] * 3 + [{"text": 1}])
    config = make_config({"path": str(path), "streaming": True}, max_steps=1)

    assert inspect_dataset(config).rows == 3


@pytest.mark.parametrize(
    ("settings", "dataset", "problem"),
    [
        ({"max_steps": -1}, {}, "dataset.streaming: .* set max_steps"),
        (
            {"method": "kto"},
            {},
            "method kto needs all rows at once; it is for sft, cpt, dpo, reward",
        ),
        (
            {},
            {"eval_fraction": 0.1},
            "dataset.eval_fraction = 0.1: a part of a stream cannot be drawn",
        ),
        (
            {"arguments": {"train_sampling_strategy": "group_by_length"}},
            {},
            "arguments.train_sampling_strategy = 'group_by_length' needs all rows at once",
        ),
    ],
)
def test_what_needs_all_rows_is_refused(settings, dataset, problem):
    given = {"path": "a.jsonl", "streaming": True, **dataset}
    with pytest.raises(ValueError, match=problem):
        TrainingConfig.model_validate({"model": "m", "dataset": given, "max_steps": 3, **settings})


# Whole jobs --------------------------------------------------------------------------------------

WAYS = {
    "sft": {"peft": {"r": 4, "lora_dropout": 0.1}},
    "packed": {"packing": True},
    "cpt": {"method": "cpt", "max_length": 16},
    "dpo": {"method": "dpo"},
    "mix": {"packing": True},
}


@pytest.mark.parametrize(
    "way", ["sft", *(pytest.param(way, marks=pytest.mark.thorough) for way in WAYS if way != "sft")]
)
def test_a_job_on_a_stream_resumes_exactly(way, make_job, tmp_path, capsys):
    settings = WAYS[way]
    words = ["the model is a loss " * (1 + i % 3) + f"{i}" for i in range(11)]
    rows = [
        {"prompt": "a", "chosen": text, "rejected": "no"} if way == "dpo" else {"text": text}
        for text in words
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": str(path), "eval_path": str(path), "streaming": True}
    if way == "mix":
        half = {"path": str(path), "eval_path": str(path), "share": 0.5}
        settings = {"dataset": {"sources": [half, half], "streaming": True}, **settings}
    whole, job = (
        make_job(tmp_path / name, data=data, max_steps=7, learning_rate=0.01, **settings)
        for name in ("whole", "job")
    )
    assert whole.train() is JobState.COMPLETED
    assert job.train(PausesAfter(job.directory, 4)) is JobState.PAUSED
    job.directory.request(Desired.RUN)
    shutil.rmtree(job.directory.cache)

    assert job.train() is JobState.COMPLETED

    assert job.curve == whole.curve
    assert job.weights == whole.weights
    assert sorted(whole.evaluations) == [0, 7]
    manifest = json.loads((job.directory.output / "MANIFEST.json").read_text())
    assert manifest["data"]["streamed_pieces_of"] == 4
    assert manifest["data"]["train_rows"] == 14
    if way == "sft":
        assert manifest["data"]["kept"] >= 14
        line = (
            "a stream, shuffled within pieces of 4 rows; of the first: 4 rows, format text: 4 kept"
        )
        assert line in capsys.readouterr().out


def test_a_stream_that_is_packed_and_that_only_workers_read_can_be_saved(
    texts, make_config, tokenizer, tmp_path
):
    stream = prepare_datasets(
        config_of(make_config, texts, tmp_path), tokenizer, tmp_path / "cache"
    ).train
    stream.packed_by(lambda rows: rows)

    assert stream.state()["tally"]["kept"] == stream.facts["kept"] == 4
    stream.restore(stream.state())
    assert len(read(stream, tokenizer)) == len(stream)


@pytest.mark.thorough
@pytest.mark.parametrize("settings", [{}, {"packing": True}])
def test_workers_of_a_data_loader_make_the_same_of_a_stream(make_job, tmp_path, rows, settings):
    data = {"path": str(rows), "streaming": True}
    alone, helped = (
        make_job(tmp_path / name, data=data, max_steps=20, arguments=arguments, **settings)
        for name, arguments in (("alone", {}), ("helped", {"dataloader_num_workers": 2}))
    )

    assert alone.train() is JobState.COMPLETED
    assert helped.train() is JobState.COMPLETED

    assert alone.curve == helped.curve
