import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.contract.errors import ConfigError, DataError
from trainer.data.chats import NO_LOSS
from trainer.data.tally import remarks, told, warning_about
from trainer.data.tokenization import prepare_datasets

CHAT = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "the answer"}]


@pytest.fixture
def prepare(make_config, tokenizer, tmp_path):
    """Prepare a dataset with the session's tokenizer and one cache per test."""

    def prepare(dataset, tokenizer=tokenizer, **config):
        return prepare_datasets(make_config(dataset, **config), tokenizer, tmp_path / "cache")

    return prepare


def texts_of(rows, tokenizer):
    return [tokenizer.decode(row["input_ids"]) for row in rows]


def learnt(row, tokenizer):
    return tokenizer.decode([label for label in row["labels"] if label != NO_LOSS])


def test_chats_become_tokens_with_labels_on_the_answers(prepare, write_rows, tokenizer):
    data = prepare(write_rows([{"messages": CHAT}] * 3))

    assert data.train.column_names == ["input_ids", "labels"]
    assert str(data.train.data.schema.field("input_ids").type.value_type) == "int32"
    assert [learnt(row, tokenizer) for row in data.train] == ["the answer</s>"] * 3
    assert data.eval is None


def test_facts_tell_what_became_of_the_rows(prepare, write_rows):
    rows = [{"messages": CHAT}, {"messages": [{"role": "user", "content": "x" * 99}, CHAT[1]]}]

    data = prepare(write_rows(rows), max_length=80)

    assert len(data.facts.pop("sha256")) == 64
    assert data.facts == {
        "rows": 2,
        "kept": 1,
        "tokens": len(data.train[0]["input_ids"]),
        "dropped": 1,
        "truncated": 0,
        "why": {"nothing to learn within max_length": 1},
        "chats": 2,
        "weighted": 0,
        "bad": 0,
        "problems": [],
        "notes": {},
        "unread": {},
        "labels": {},
        "several": 0,
        "highest": 286,
        "longest": len(data.train[0]["input_ids"]),
        "format": "messages",
        "train_rows": 1,
        "eval_rows": 0,
        "plain_template": True,
        "turn_end": "</s>",
    }


def test_long_rows_keep_their_beginning(prepare, write_rows, tokenizer):
    data = prepare(write_rows([{"text": "abcdefgh" * 20}]), max_length=9)

    assert (
        texts_of(data.train, tokenizer)[0]
        == ("abcdefgh" * 20)[: len(texts_of(data.train, tokenizer)[0])]
    )
    assert len(data.train[0]["input_ids"]) == 9


def test_when_nothing_is_left_to_learn_the_remedy_is_named(prepare, write_rows):
    path = write_rows([{"prompt": "x" * 99, "completion": "y"}])

    with pytest.raises(
        DataError,
        match=r"none of 1 rows can be learned from.*\(1: nothing to learn.*Raise max_length",
    ):
        prepare(path, max_length=8)


def test_rows_that_all_have_weight_0_are_another_matter(prepare, write_rows):
    with pytest.raises(
        DataError, match=r"\(2: weight 0\).*Give the rows that count a weight above 0"
    ):
        prepare(write_rows([{"text": "a", "weight": 0}] * 2))


def test_completions_are_learnt_and_prompts_are_not(prepare, write_rows, tokenizer):
    path = write_rows([{"prompt": "2+2=", "completion": "4"}])

    (row,) = prepare(path).train
    (whole,) = prepare(path, assistant_only_loss=False).train

    assert tokenizer.decode(row["input_ids"]) == "2+2=4</s>"
    assert learnt(row, tokenizer) == "4</s>"
    assert whole["labels"] == whole["input_ids"] == row["input_ids"]


def test_cpt_keeps_long_texts_whole_and_learns_all_of_them(prepare, write_rows, tokenizer):
    text = "the answer is here. " * 50

    (row,) = prepare(write_rows([{"text": text}]), method="cpt", max_length=8).train

    assert tokenizer.decode(row["input_ids"]) == f"{text}</s>"
    assert row["labels"] == row["input_ids"]


def test_texts_begin_with_bos_where_the_tokenizer_says_so(prepare, write_rows, build_tokenizer):
    adding = build_tokenizer(adds_bos=True)

    (row,) = prepare(write_rows([{"text": "ab</s>"}]), adding, method="cpt").train

    assert adding.decode(row["input_ids"]) == "<s>ab</s>"


@settings(deadline=None, max_examples=25)
@given(
    texts=st.lists(
        st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1), min_size=1
    )
)
def test_every_text_comes_back_in_order(make_config, tokenizer, tmp_path_factory, texts):
    import json

    folder = tmp_path_factory.mktemp("texts")
    path = folder / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))

    data = prepare_datasets(make_config(path, method="cpt"), tokenizer, folder / "cache")

    assert texts_of(data.train, tokenizer) == [f"{text}</s>" for text in texts]
    assert data.facts["tokens"] == sum(len(row["input_ids"]) for row in data.train)


def test_more_rows_than_a_batch_keep_their_order(prepare, write_rows, tokenizer):
    data = prepare(write_rows({"text": f"row {i}"} for i in range(1300)))

    assert texts_of(data.train, tokenizer) == [f"row {i}</s>" for i in range(1300)]


def test_the_split_is_the_same_for_the_same_seed_and_another_for_another(
    prepare, write_rows, tokenizer
):
    path = write_rows({"text": f"row {i}"} for i in range(50))
    dataset = {"path": str(path), "eval_fraction": 0.2}

    first, again, other = (prepare(dataset, seed=seed) for seed in (1, 1, 2))

    held_out = [set(texts_of(data.eval, tokenizer)) for data in (first, again, other)]
    assert held_out[0] == held_out[1] != held_out[2]
    assert held_out[0] | set(texts_of(first.train, tokenizer)) == {
        f"row {i}</s>" for i in range(50)
    }
    assert (first.facts["train_rows"], first.facts["eval_rows"]) == (40, 10)


def test_the_split_leaves_a_row_on_either_side(prepare, write_rows):
    two = {"path": str(write_rows([{"text": "ab"}] * 2)), "eval_fraction": 0.01}
    one = {"path": str(write_rows([{"text": "ab"}], "one.jsonl")), "eval_fraction": 0.01}

    data = prepare(two)

    assert (len(data.train), len(data.eval)) == (1, 1)
    with pytest.raises(DataError, match=r"eval_fraction = 0.01: of 1 usable rows none is left"):
        prepare(one)


def test_held_out_rows_may_come_from_a_file_of_their_own(prepare, write_rows, tokenizer):
    train, held_out = write_rows([{"text": "ab"}] * 3), write_rows([{"text": "cd"}], "eval.jsonl")

    data = prepare({"path": str(train), "eval_path": str(held_out)})

    assert texts_of(data.eval, tokenizer) == ["cd</s>"]
    assert (data.facts["train_rows"], data.facts["eval_rows"]) == (3, 1)


def test_no_more_rows_are_read_than_wanted(prepare, write_rows):
    path = write_rows({"text": f"row {i}"} for i in range(9))

    assert len(prepare({"path": str(path), "max_rows": 4}).train) == 4


def test_the_same_input_is_tokenised_once(prepare, write_rows, tmp_path, caplog):
    caplog.set_level(logging.INFO, "trainer")
    path = write_rows([{"text": "ab"}])

    first = prepare(path)
    arrow = next((tmp_path / "cache").glob("*.arrow"))
    written = arrow.stat().st_mtime_ns
    again = prepare(path)

    assert arrow.stat().st_mtime_ns == written
    assert again.train[:] == first.train[:]
    assert again.facts == first.facts
    assert "Found the tokens of an earlier run" in caplog.text


def test_other_data_settings_or_tokenizers_are_tokenised_anew(
    prepare, write_rows, tmp_path, build_tokenizer
):
    path = write_rows([{"text": "abcdefghij"}])
    prepare(path)
    prepare(path, max_length=9)
    prepare(path, method="cpt")
    prepare(path, build_tokenizer(template="{{ messages }}"))
    prepare(path, build_tokenizer(adds_bos=True))
    write_rows([{"text": "other"}])
    prepare(path)

    assert len(list((tmp_path / "cache").glob("*.arrow"))) == 6


def test_a_torn_cache_file_is_written_anew(prepare, write_rows, tmp_path):
    path = write_rows([{"text": "ab"}])
    whole = prepare(path).train[:]
    arrow = next((tmp_path / "cache").glob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:-9])

    assert prepare(path).train[:] == whole


def test_a_bad_row_leaves_nothing_in_the_cache(prepare, write_rows, tmp_path):
    path = write_rows([{"text": "ab"}, {"text": 1}, {"text": None}])

    with pytest.raises(DataError, match=r"2 of 3 rows cannot be used"):
        prepare(path)

    assert list((tmp_path / "cache").iterdir()) == []


def test_one_line_tells_what_became_of_the_rows_and_why(prepare, write_rows):
    long = [{"messages": [{"role": "user", "content": "x" * 99}, CHAT[1]]}] * 2
    dataset = {"path": str(write_rows([{"messages": CHAT}] * 2 + long)), "eval_fraction": 0.2}

    facts = prepare(dataset, max_length=80).facts

    assert told(facts, 80) == (
        "4 rows, format messages: 2 kept, 2 dropped (2: nothing to learn within max_length), "
        "1 held out; 1 to train on"
    )
    assert warning_about(facts, 80) == ""


def test_a_plain_template_for_lack_of_one_is_said_where_there_are_chats(
    prepare, write_rows, build_tokenizer
):
    chats, texts = write_rows([{"messages": CHAT}]), write_rows([{"text": "x"}], "texts.jsonl")

    assert remarks(prepare(chats, build_tokenizer()).facts) == [
        "The model has no chat template: chats are rendered as plain ChatML, which is saved with "
        "the result."
    ]
    assert remarks(prepare(texts, build_tokenizer()).facts) == []
    own = build_tokenizer(template="{% generation %}{{ messages[1].content }}{% endgeneration %}")
    with pytest.raises(DataError, match="leaves out the content of message 1"):
        prepare(chats, own)


def test_more_than_half_dropped_is_asked_about(prepare, write_rows):
    long = [{"messages": [{"role": "user", "content": "x" * 99}, CHAT[1]]}] * 2

    facts = prepare(write_rows([{"messages": CHAT}, *long]), max_length=80).facts

    assert warning_about(facts, 80).startswith(
        "more than half of the rows are not learned from (2 of 3). Is max_length = 80 meant?"
    )


def test_a_tokenizer_that_cannot_end_a_text_is_refused(prepare, write_rows, build_tokenizer):
    endless = build_tokenizer()
    endless.eos_token = None

    with pytest.raises(ConfigError, match=r"has no eos_token"):
        prepare(write_rows([{"text": "ab"}]), endless)
