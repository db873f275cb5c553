"""Judged answers as tokens: prompts and answers from one rendering, in every method's columns."""

import pytest

from trainer.contract.errors import DataError
from trainer.data.tally import told
from trainer.data.tokenization import prepare_datasets

USER = {"role": "user", "content": "2+2?"}
GOOD = {"role": "assistant", "content": "four"}
BAD = {"role": "assistant", "content": "five"}
PAIR = {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]}
# As Gemma and Mistral do.
USER_FIRST = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
ASKED = "<s><|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
# As DeepSeek's R1 does: the model is to begin with its thoughts, which are shown nowhere else.
THINKS_FIRST = USER_FIRST.replace(
    "'<|im_start|>assistant\\n' }}{% endif %}", "'<|im_start|>assistant\\n<think>\\n' }}{% endif %}"
)


@pytest.fixture
def prepare(make_config, build_tokenizer, write_rows, tmp_path):
    """Prepare rows for a method; return the tokenizer and the data."""

    def prepare(rows, method, template=USER_FIRST, **config):
        tokenizer = build_tokenizer(template=template)
        config = make_config(write_rows(rows), method=method, **config)
        return tokenizer, prepare_datasets(config, tokenizer, tmp_path / "cache")

    return prepare


def texts(tokenizer, row):
    return {
        name.removesuffix("_ids"): tokenizer.decode(ids) if name != "label" else ids
        for name, ids in row.items()
    }


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_a_template_that_demands_the_user_first_renders_pairs(prepare, method):
    tokenizer, data = prepare([PAIR], method)

    assert texts(tokenizer, data.train[0]) == {
        "prompt": ASKED,
        "chosen": "four<|im_end|>\n",
        "rejected": "five<|im_end|>\n",
    }
    assert data.facts["longest"] == sum(
        len(data.train[0][f"{n}_ids"]) for n in ("prompt", "chosen")
    )


def test_a_reward_model_scores_the_whole_chat(prepare):
    tokenizer, data = prepare([PAIR], "reward")

    assert texts(tokenizer, data.train[0]) == {
        "chosen": f"{ASKED}four<|im_end|>\n",
        "rejected": f"{ASKED}five<|im_end|>\n",
    }


def test_kto_makes_two_answers_of_a_pair(prepare):
    tokenizer, data = prepare([PAIR], "kto")

    assert [texts(tokenizer, row) for row in data.train] == [
        {"prompt": ASKED, "completion": "four<|im_end|>\n", "label": True},
        {"prompt": ASKED, "completion": "five<|im_end|>\n", "label": False},
    ]
    assert (data.facts["rows"], data.facts["kept"]) == (1, 2)


@pytest.mark.parametrize("answer", ["four", "<thin", "<think>"])
def test_the_answer_begins_where_the_way_of_asking_ends(prepare, answer):
    pair = {**PAIR, "chosen": [{**GOOD, "content": answer}]}

    tokenizer, data = prepare([pair], "dpo", THINKS_FIRST)

    assert texts(tokenizer, data.train[0]) == {
        "prompt": ASKED,
        "chosen": f"{answer}<|im_end|>\n",
        "rejected": "five<|im_end|>\n",
    }


def test_texts_are_tokenised_with_their_answers_and_end(prepare):
    tokenizer, data = prepare([{"prompt": "a: ", "chosen": "the", "rejected": "is</s>"}], "dpo")

    assert texts(tokenizer, data.train[0]) == {
        "prompt": "a:",
        "chosen": " the</s>",
        "rejected": " is</s>",
    }


def test_pairs_are_cut_at_max_length_and_dropped_where_nothing_is_left_to_compare(prepare):
    same = {"prompt": "a", "chosen": "b" * 50 + "c", "rejected": "b" * 50 + "d"}
    cut = {"prompt": "a", "chosen": "b" * 50, "rejected": "c"}
    full = {"prompt": "x" * 50, "chosen": "b", "rejected": "c"}

    _, data = prepare([same, cut, full], "dpo", max_length=20)

    assert len(data.train[0]["prompt_ids"]) + len(data.train[0]["chosen_ids"]) == 20
    assert told(data.facts, 20) == (
        "3 rows, format preference: 1 kept, 1 of them cut at max_length = 20, 2 dropped "
        "(1: both answers are the same once they are cut at max_length, "
        "1: the prompt leaves no room for an answer within max_length); 1 to train on"
    )


def test_a_part_of_an_answer_is_not_scored(prepare):
    rows = [{"prompt": "a", "chosen": "b" * 50, "rejected": "c"}, PAIR]

    _, data = prepare(
        [{**row, "prompt": str(row["prompt"])} for row in rows[:1]]
        + [{"prompt": "a", "chosen": "b", "rejected": "c"}],
        "reward",
        max_length=20,
    )

    assert (data.facts["kept"], data.facts["dropped"], data.facts["truncated"]) == (1, 1, 0)


def test_a_chat_that_the_template_refuses_is_named_for_pairs_too(prepare):
    system = {"role": "system", "content": "x"}

    with pytest.raises(
        DataError, match=r"train.jsonl:1: the chat template .* refuses this chat: Roles"
    ):
        prepare([{**PAIR, "prompt": [system, USER]}], "dpo")
