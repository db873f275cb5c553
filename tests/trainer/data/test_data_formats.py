import pytest

from trainer.contract.errors import DataError
from trainer.data.formats import Chat, PlainText, choose_schema
from trainer.data.parsing import Row
from trainer.data.problems import RowProblem

USER = {"role": "user", "content": "2+2?"}
ASSISTANT = {"role": "assistant", "content": "4"}


@pytest.fixture
def convert(make_config):
    """Return a row as its own columns, and what dataset settings say, lay it out."""

    def convert(row, method="sft", **dataset):
        rewards = {"reward_functions": ["length"]} if method == "grpo" else {}
        config = make_config({"path": "d.jsonl", **dataset}, method=method, **rewards)
        return choose_schema(Row("d.jsonl", 1, "line", row), config).convert(row)

    return convert


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"messages": [USER, ASSISTANT], "text": "x"}, Chat([USER, ASSISTANT])),
        (
            {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
            Chat([USER, ASSISTANT]),
        ),
        (
            {
                "conversations": [
                    {"from": "user", "value": "2+2?"},
                    {"role": "assistant", "content": "4"},
                ]
            },
            Chat([USER, ASSISTANT]),
        ),
        ({"instruction": "2+2?", "output": "4"}, Chat([USER, ASSISTANT])),
        ({"instruction": "2+2?", "input": "", "output": "4"}, Chat([USER, ASSISTANT])),
        (
            {"instruction": "Add.", "input": "2+2", "output": "4"},
            Chat([{"role": "user", "content": "Add.\n\n2+2"}, ASSISTANT]),
        ),
        ({"prompt": "2+2=", "completion": "4"}, PlainText("2+2=", "4")),
        ({"prompt": [USER], "completion": [ASSISTANT]}, Chat([USER, ASSISTANT])),
        ({"text": "x", "extra": 1}, PlainText("", "x")),
    ],
)
def test_the_format_is_told_from_the_columns(convert, row, expected):
    assert convert(row) == expected


def test_the_format_can_be_given(convert):
    row = {"messages": [USER, ASSISTANT], "text": "x"}

    assert convert(row, format="text") == PlainText("", "x")


def test_columns_can_bear_other_names(convert):
    row = {"question": "2+2?", "answer": "4"}

    assert convert(row, columns={"instruction": "question", "output": "answer"}) == Chat(
        [USER, ASSISTANT]
    )


CHAT = Chat([USER, ASSISTANT])


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2+2?", "answer": "4"},
        {"Question": "2+2?", " Answer": "4"},
        {"query": "2+2?", "response": "4", "source": "x"},
        {"problem": "2+2?", "solution": "4"},
        {"input": "2+2?", "output": "4"},
        {"instruction": "2+2?", "response": "4"},
        {"prompt": "2+2?", "response": "4"},
        {"user": "2+2?", "assistant": "4"},
        {"question": "2+2?", "context": "", "answer": "4"},
        {"conversation": [USER, ASSISTANT]},
        {"dialog": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    ],
)
def test_the_names_that_are_usual_elsewhere_are_known(convert, row):
    assert convert(row) == CHAT


@pytest.mark.parametrize("about", ["input", "context"])
@pytest.mark.parametrize(("asked", "said"), [("instruction", "output"), ("question", "answer")])
def test_what_a_question_is_about_follows_it(convert, about, asked, said):
    found = convert({asked: "Add.", about: "2+2", said: "4"})

    assert found == Chat([{"role": "user", "content": "Add.\n\n2+2"}, ASSISTANT])


@pytest.mark.parametrize(
    ("row", "method", "problem"),
    [
        (
            {"problem": "x", "solution": "long", "answer": "4"},
            "sft",
            "'answer' and 'solution' could each be the output; the columns are 'problem'",
        ),
        ({"question": "x", "query": "y", "answer": "4"}, "sft", "could each be the instruction"),
        ({"question": "x", "problem": "y", "n": 1}, "grpo", "could each be the prompt"),
        (
            {"question": "x", "input": "a", "context": "b", "answer": "4"},
            "sft",
            "'input' and 'context' could each be the input",
        ),
    ],
)
def test_what_could_be_two_things_is_not_guessed(convert, row, method, problem):
    with pytest.raises(DataError, match=problem) as caught:
        convert(row, method=method)

    assert "Say which in dataset.columns" in caught.value.suggestion


@pytest.mark.parametrize("turn", [{"role": "user", "content": "Hi"}, {"from": "GPT", "text": "Hi"}])
@pytest.mark.parametrize("method", ["sft", "cpt"])
def test_a_turn_of_a_chat_is_not_taken_for_a_text(convert, turn, method):
    with pytest.raises(DataError, match=r"is a turn of a chat: '(role|from)'") as caught:
        convert(turn, method=method)

    assert '{"messages": [{role, content}, …]}' in caught.value.suggestion


def test_what_only_looks_like_a_turn_is_a_text(convert):
    assert convert({"role": "engineer", "content": "Hi"}).completion == "Hi"
    turn = {"role": "user", "content": "Hi"}
    assert convert(turn, columns={"text": "content"}).completion == "Hi"


def test_an_ambiguity_is_settled_by_the_job(convert):
    row = {"problem": "2+2?", "solution": "long", "answer": "4"}

    assert convert(row, columns={"output": "answer"}) == CHAT


def test_our_own_names_go_before_others(convert):
    row = {"prompt": "2+2=", "completion": "4", "question": "x", "answer": "y"}

    assert convert(row) == PlainText("2+2=", "4")
    assert convert({"text": "x", "question": "a", "answer": "b"}) == PlainText("", "x")


def test_preferences_answers_and_prompts_know_the_usual_names_too(convert):
    pair = convert({"question": "q", "chosen": "a", "rejected": "b"}, method="dpo")
    judged = convert({"query": "q", "response": "a", "label": True}, method="kto")
    asked = convert({"question": "q", "answer": "4"}, method="grpo")

    assert (pair.prompt, pair.chosen, pair.rejected) == ("q", "a", "b")
    assert (judged.prompt, judged.completion, judged.label) == ("q", "a", True)
    assert (asked.prompt, asked.others) == ("q", {"answer": "4"})


def test_cpt_takes_the_text_of_documents(convert):
    assert convert({"content": "x", "path": "a.py"}, method="cpt") == PlainText("", "x")


def test_a_column_name_that_we_do_not_have_is_refused(convert):
    with pytest.raises(DataError, match=r"'answer' is not a known column. There are: messages"):
        convert({"text": "x"}, columns={"answer": "text"})


def test_columns_that_fit_no_format_are_listed(convert):
    with pytest.raises(
        DataError,
        match=r"d.jsonl:1: sft finds none of its formats in the columns 'a', 'b'.*instruction and",
    ):
        convert({"a": 1, "b": 2})


def test_cpt_takes_text_whatever_stands_beside_it(convert):
    assert convert({"prompt": "a", "completion": "b", "text": "x"}, method="cpt") == PlainText(
        "", "x"
    )


@pytest.mark.parametrize(
    ("row", "dataset", "problem"),
    [
        ({"messages": [USER, ASSISTANT]}, {}, "cpt learns from text.*'messages'.*method: sft"),
        (
            {"messages": [USER, ASSISTANT], "text": "x"},
            {"format": "messages"},
            "cpt learns from text.*'messages'.*method: sft",
        ),
        ({"body": "x"}, {}, "cpt finds none of its formats in the columns 'body'.*: text"),
    ],
)
def test_cpt_refuses_anything_but_text(convert, row, dataset, problem):
    with pytest.raises(DataError, match=problem):
        convert(row, method="cpt", **dataset)


def test_a_turn_that_only_calls_tools_needs_no_content(convert):
    calls = [{"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}]
    tool = {"role": "tool", "content": "4"}
    row = {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": calls}, tool]}

    assert convert(row) == Chat(
        [USER, {"role": "assistant", "content": "", "tool_calls": calls}, tool]
    )


def test_columns_that_a_table_fills_with_null_are_dropped(convert):
    row = {"messages": [{**USER, "tool_calls": None, "name": None}, ASSISTANT]}

    assert convert(row) == Chat([USER, ASSISTANT])


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": 3}, "text: is the number 3, not a text; write it as"),
        ({"text": None}, "text: is null, not a text; give the text or remove the row"),
        ({"text": ["x"]}, "text: is a list, not a text"),
        ({"text": " \n"}, "text: is empty; fill it or remove the row"),
        ({"text": "a\ud83d"}, "text: holds half of a surrogate pair at character 2"),
        ({"instruction": "x", "output": ""}, "output: is empty"),
        ({"instruction": "x", "input": 7, "output": "y"}, "input: is the number 7"),
        ({"prompt": "", "completion": "y"}, "prompt: is empty"),
        ({"prompt": "x", "completion": [USER, ASSISTANT]}, "completion: begins with the user's turn"),
        ({"messages": "x"}, "messages: is a text, not a list of messages"),
        ({"messages": []}, "messages: is an empty list; add messages or remove the row"),
        ({"messages": ["x"]}, r"messages\[0\]: is a text, not a message"),
        ({"messages": [USER]}, "messages: has no assistant message; add the answer"),
        ({"messages": [{"role": "boss", "content": "x"}]}, r"messages\[0\].role: is 'boss'; use system, user"),
        ({"messages": [{"content": "x"}]}, r"messages\[0\].role: is missing; use system, user"),
        ({"messages": [USER, {"role": "assistant"}]}, r"messages\[1\].content: is missing"),
        ({"messages": [USER, {"role": "assistant", "content": 4}]}, r"messages\[1\].content: is the number 4"),
        ({"conversations": [{"from": "human", "value": ""}]}, r"conversations\[0\].value: is empty"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_row_names_the_field_and_the_remedy(convert, row, problem):
    with pytest.raises(RowProblem, match=f"^{problem}"):
        convert(row)


def test_a_missing_field_is_named_as_the_dataset_calls_it(make_config):
    config = make_config({"path": "d.jsonl", "columns": {"text": "body"}})
    schema = choose_schema(Row("d.jsonl", 1, "line", {"body": "x"}), config)

    with pytest.raises(RowProblem, match=r"^body: is missing; add it; the row has 'text'"):
        schema.convert({"text": "x"})
