"""Pairs, judged answers and prompts: every layout of them, and what is wrong with a row."""

import json

import pytest

from trainer.contract.errors import DataError
from trainer.data import inspect_dataset
from trainer.data.formats import Chat, choose_schema
from trainer.data.judged import Judged, Preference, Prompt
from trainer.data.parsing import Row
from trainer.data.problems import RowProblem

USER = {"role": "user", "content": "2+2?"}
GOOD = {"role": "assistant", "content": "4"}
BAD = {"role": "assistant", "content": "5"}


@pytest.fixture
def convert(make_config):
    """Return a function: row and config settings → what is learnt from."""

    def converted(row, method="dpo", **dataset):
        config = make_config({"path": "d.jsonl", **dataset}, method=method)
        return choose_schema(Row("d.jsonl", 1, "line", row), config).convert(row)

    return converted


@pytest.mark.parametrize(
    ("row", "pair"),
    [
        (
            {"prompt": "2+2=", "chosen": "4", "rejected": "5", "score": 1},
            Preference("2+2=", "4", "5"),
        ),
        (
            {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
            Preference([USER], [GOOD], [BAD]),
        ),
        ({"chosen": [USER, GOOD], "rejected": [USER, BAD]}, Preference([USER], [GOOD], [BAD])),
        (
            {"conversations": [USER], "chosen": GOOD, "rejected": BAD},
            Preference([USER], [GOOD], [BAD]),
        ),
        (
            {"chosen": "Human: 2+2? AI: four", "rejected": "Human: 2+2? AI: five"},
            Preference("Human: 2+2? AI: ", "four", "five"),
        ),
    ],
    ids=["texts", "messages", "conversations that part", "single messages", "texts that part"],
)
def test_a_pair_is_told_in_each_of_its_layouts(convert, row, pair):
    assert convert(row) == pair


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]}, [USER]),
        ({"prompt": "2+2?", "chosen": [USER, GOOD], "rejected": [USER, BAD]}, [USER]),
        ({"prompt": "2+2?", "chosen": [GOOD], "rejected": [BAD]}, [USER]),
        ({"prompt": [USER], "chosen": "4", "rejected": "5"}, [USER]),
        (
            {"prompt": [SYSTEM, USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            [SYSTEM, USER],
        ),
        (
            {"prompt": "2+2?", "chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
            [SYSTEM, USER],
        ),
        (
            {"prompt": "2+2?", "chosen": [USER, BAD, USER, GOOD], "rejected": [USER, BAD, USER, BAD]},
            [USER, BAD, USER],
        ),
    ],
)  # fmt: skip
def test_a_prompt_that_the_answers_repeat_is_there_once(convert, row, prompt):
    assert convert(row) == Preference(prompt, [GOOD], [BAD])


def test_a_text_that_both_answers_repeat_is_there_once(convert):
    row = {"prompt": "Q: 2+2? A: ", "chosen": "Q: 2+2? A: 4", "rejected": "Q: 2+2? A: 5"}

    assert convert(row) == Preference("Q: 2+2? A: ", "4", "5")


def test_answers_may_begin_with_the_words_of_a_prompt(convert):
    row = {"prompt": "a", "chosen": "a bee", "rejected": "an owl"}

    assert convert(row) == Preference("a", "a bee", "an owl")


def test_an_answer_that_is_judged_may_repeat_its_prompt(convert):
    row = {"prompt": [USER], "completion": [USER, GOOD], "label": True}

    assert convert(row, method="kto") == Judged([USER], [GOOD], label=True)


def test_a_completion_may_repeat_its_prompt_too(convert):
    chat = Chat([USER, BAD, USER, GOOD], muted=frozenset([1]))

    for prompt in ([USER, BAD, USER], "2+2?"):
        row = {"prompt": prompt, "completion": [USER, BAD, USER, GOOD]}
        assert convert(row, method="sft") == chat


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"prompt": "3+3?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            "chosen: begins with the user's turn, and not with the whole prompt",
        ),
        (
            {"prompt": [USER], "chosen": [SYSTEM, GOOD], "rejected": [SYSTEM, BAD]},
            "chosen: begins with the system's turn",
        ),
        (
            {"chosen": [USER, GOOD], "rejected": [USER, USER, BAD]},
            "rejected: goes on with the user's turn",
        ),
    ],
)
def test_answers_that_begin_with_another_question_are_refused(convert, row, problem):
    with pytest.raises(RowProblem, match=f"^{problem}"):
        convert(row)


@pytest.mark.parametrize(
    ("label", "meant"), [(True, True), (False, False), ("true", True), (0, False), ("1", True)]
)
def test_a_label_is_read_as_people_write_it(convert, label, meant):
    row = {"prompt": "2+2=", "completion": "4", "label": label}

    assert convert(row, method="kto") == Judged("2+2=", "4", meant)


def test_kto_takes_pairs_too(convert):
    row = {"prompt": "2+2=", "chosen": "4", "rejected": "5"}

    assert convert(row, method="kto") == Preference("2+2=", "4", "5")


def test_columns_may_have_other_names(convert):
    row = {"question": "2+2=", "better": "4", "worse": "5"}
    columns = {"prompt": "question", "chosen": "better", "rejected": "worse"}

    assert convert(row, columns=columns) == Preference("2+2=", "4", "5")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "a", "chosen": "x", "rejected": "x"}, "rejected: is the same as chosen"),
        ({"prompt": "a", "chosen": "x", "rejected": [BAD]}, "rejected: is a list where chosen is"),
        ({"prompt": "a", "chosen": "", "rejected": "y"}, "chosen: is empty"),
        ({"chosen": "apples", "rejected": "pears"}, "rejected: and chosen do not begin with one"),
        (
            {"prompt": [USER, GOOD], "chosen": [GOOD], "rejected": [BAD]},
            "prompt: ends with the assistant's turn",
        ),
    ],
)
def test_what_is_no_pair_is_told_with_the_remedy(convert, row, problem):
    with pytest.raises(RowProblem, match=f"^{problem}"):
        convert(row)


def test_a_label_that_is_none_is_told(convert):
    with pytest.raises(RowProblem, match=r"^label: is 'good'; write true or false"):
        convert({"prompt": "a", "completion": "b", "label": "good"}, method="kto")


@pytest.mark.parametrize(
    ("method", "row", "remedy"),
    [
        ("sft", {"prompt": "a", "chosen": "b", "rejected": "c"}, "Use method: dpo or kto or orpo"),
        ("dpo", {"messages": [USER, GOOD]}, "Use method: sft"),
        ("kto", {"text": "x"}, "Use method: cpt or sft"),
    ],
)
def test_rows_of_another_method_name_the_method_that_takes_them(convert, method, row, remedy):
    with pytest.raises(DataError, match=remedy):
        convert(row, method=method)


def test_the_report_names_bad_pairs_by_line(tmp_path, make_config):
    path = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b"}]
    path.write_text("\n".join(json.dumps(row) for row in rows))

    with pytest.raises(DataError, match=r"pairs.jsonl:2: rejected: is missing"):
        inspect_dataset(make_config(str(path), method="dpo"))


@pytest.mark.parametrize(("label", "missing"), [(True, "false"), (False, "true")])
def test_answers_that_are_all_good_or_all_bad_are_told(tmp_path, make_config, label, missing):
    path = tmp_path / "judged.jsonl"
    rows = [{"prompt": "2+2=", "completion": str(i), "label": label} for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    with pytest.raises(DataError, match=f"every row is labelled {str(label).lower()}") as caught:
        inspect_dataset(make_config(str(path), method="kto"))
    assert f"Add answers labelled {missing}" in caught.value.suggestion


def test_a_prompt_keeps_the_other_columns_for_reward_functions():
    assert Prompt("2+2=", {"answer": "4"}).characters == 4


@pytest.mark.parametrize("name", ["body", "topic"])
def test_a_prompt_is_not_guessed_where_another_text_may_be_it(convert, name):
    row = {name: "2+2 is", "chosen": "the four", "rejected": "the five"}

    with pytest.raises(
        RowProblem, match=rf"^{name}: may be the prompt.*columns: \{{prompt: {name}"
    ):
        convert(row)
    assert convert(row, columns={"prompt": name}) == Preference("2+2 is", "the four", "the five")


@pytest.mark.parametrize("other", [{"score": 1}, {"tags": ["a"]}, {"note": None}, {"note": " "}])
def test_what_is_no_text_is_no_prompt(convert, other):
    row = {"chosen": "2+2 is four", "rejected": "2+2 is five"}

    assert convert({**row, **other}) == Preference("2+2 is ", "four", "five")


def test_messages_that_both_begin_with_are_the_prompt_whatever_stands_beside(convert):
    row = {"chosen": [USER, GOOD], "rejected": [USER, BAD], "source": "arithmetic"}

    assert convert(row) == Preference([USER], [GOOD], [BAD])
