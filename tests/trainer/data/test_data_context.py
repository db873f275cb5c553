"""What stands beside the layout of a row: read, or named; never ignored without a word."""

import pytest

from trainer.contract.errors import DataError
from trainer.data import inspect_dataset
from trainer.data.formats import Chat, PlainText, choose_schema
from trainer.data.judged import Judged, Preference, Prompt
from trainer.data.parsing import Row
from trainer.data.problems import RowProblem
from trainer.data.tally import remarks
from trainer.data.tokenization import prepare_datasets

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "2+2?"}
FOUR = {"role": "assistant", "content": "4"}
FIVE = {"role": "assistant", "content": "5"}
ADD = {"name": "add", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": ADD}
BEFORE = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]


@pytest.fixture
def convert(make_config):
    """Return rows as the first of them, and what dataset settings say, lay them out."""

    def convert(*rows, method="sft", **dataset):
        rewards = {"reward_functions": ["length"]} if method == "grpo" else {}
        config = make_config({"path": "d.jsonl", **dataset}, method=method, **rewards)
        schema = choose_schema(Row("d.jsonl", 1, "line", rows[0]), config)
        return [schema.convert(row) for row in rows][-1]

    return convert


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize(
    ("method", "row", "expected"),
    [
        ("sft", {"messages": [USER, FOUR]}, Chat([SYSTEM, USER, FOUR])),
        ("sft", {"messages": [SYSTEM, USER, FOUR]}, Chat([SYSTEM, USER, FOUR])),
        (
            "sft",
            {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
            Chat([SYSTEM, USER, FOUR]),
        ),
        ("sft", {"instruction": "2+2?", "output": "4"}, Chat([SYSTEM, USER, FOUR])),
        ("sft", {"prompt": "2+2?", "completion": "4"}, Chat([SYSTEM, USER, FOUR])),
        ("sft", {"prompt": [USER], "completion": [FOUR]}, Chat([SYSTEM, USER, FOUR])),
        (
            "dpo",
            {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
            Preference([SYSTEM, USER], [FOUR], [FIVE]),
        ),
        (
            "dpo",
            {"chosen": [USER, FOUR], "rejected": [USER, FIVE]},
            Preference([SYSTEM, USER], [FOUR], [FIVE]),
        ),
        (
            "kto",
            {"prompt": "2+2?", "completion": "4", "label": True},
            Judged([SYSTEM, USER], [FOUR], label=True),
        ),
    ],
)
def test_a_system_column_begins_the_chat(convert, name, method, row, expected):
    assert convert({**row, name: "Be brief."}, method=method) == expected
    assert convert({**row, "mine": "Be brief."}, method=method, columns={"system": "mine"}) == (
        expected
    )


def test_a_system_column_begins_prompts_and_stays_for_rewards(convert):
    row = {"prompt": "2+2?", "system": "Be brief."}

    assert convert(row, method="grpo") == Prompt([SYSTEM, USER], {"system": "Be brief."})


@pytest.mark.parametrize("history", [[["1+1?", "2"]], '[["1+1?", "2"]]'])
def test_turns_before_come_between_system_and_question(convert, history):
    row = {"instruction": "2+2?", "output": "4", "system": "Be brief.", "history": history}

    assert convert(row) == Chat([SYSTEM, *BEFORE, USER, FOUR])


@pytest.mark.parametrize(
    "tools",
    [
        [TOOL],
        [ADD],
        f'[{"{"}"name": "add", "parameters": {"{"}"type": "object", "properties": {"{}"}{"}"}{"}"}]',
    ],
)
@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("sft", {"messages": [USER, FOUR]}),
        ("sft", {"prompt": "2+2?", "completion": "4"}),
        ("dpo", {"prompt": [USER], "chosen": [FOUR], "rejected": [FIVE]}),
        ("kto", {"prompt": [USER], "completion": [FOUR], "label": False}),
    ],
)
def test_tools_are_read_as_objects_or_json(convert, tools, method, row):
    assert convert({**row, "tools": tools}, method=method).tools == [TOOL]


@pytest.mark.parametrize("nothing", [None, "", []])
def test_what_is_empty_is_not_there(convert, nothing):
    row = {"prompt": "2+2=", "completion": "4"}

    given = {**row, "history": nothing, "system": nothing or "", "tools": nothing}

    assert convert(given) == PlainText("2+2=", "4")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "b", "system": "c"}],
            "system: is given here, and the first row is plain text without",
        ),
        ([{"messages": [SYSTEM, USER, FOUR], "system": "c"}], "system: says something else than"),
        ([{"messages": [USER, FOUR], "system": "a", "system_prompt": "b"}], "system_prompt: is there beside system"),
        ([{"messages": [USER, FOUR], "system": 3}], "system: is the number 3, not a text"),
        ([{"messages": [USER, FOUR], "tools": "add"}], "tools: is a text that is not JSON"),
        ([{"messages": [USER, FOUR], "tools": [{"x": 1}]}], r"tools\[0\]: names no function"),
        ([{"messages": [USER, FOUR], "history": ["a"]}], r"history\[0\]: is a text; give a list"),
        ([{"conversations": [USER, FOUR], "image": "cat.png"}], "image: would be lost, for only text"),
        (
            [{"messages": [USER, FOUR], "shot": {"bytes": b"\x89PNG\r\n", "path": None}}],
            "shot: would be lost, for only text is learned from, of a model that sees or hears by its lang",
        ),
        ([{"messages": [USER, FOUR], "clips": [b"\0\0\0 ftypisom"]}], "clips: would be lost"),
    ],
)  # fmt: skip
def test_what_has_no_place_is_refused(convert, rows, problem):
    with pytest.raises(RowProblem, match=f"^{problem}"):
        convert(*rows)


def test_tools_are_refused_where_the_model_answers_without(convert):
    with pytest.raises(RowProblem, match=r"^tools: would not be shown to the model"):
        convert({"prompt": "2+2?", "tools": [TOOL]}, method="grpo")


@pytest.mark.parametrize("name", ["weight", "train", "training", "loss"])
@pytest.mark.parametrize("no", [0, False, 0.0])
def test_a_turn_of_no_weight_is_not_learned(convert, name, no):
    row = {"messages": [USER, {**FIVE, name: no}, USER, {**FOUR, name: 1}]}

    assert convert(row) == Chat(
        [USER, FIVE, USER, FOUR], muted=frozenset([1]), marked=frozenset([3])
    )


@pytest.mark.parametrize(
    ("message", "problem"),
    [
        ({**FOUR, "weight": 0.5}, r"messages\[1\].weight: is 0.5; write 1 or 0"),
        ({**FOUR, "weight": 0}, "messages: has weight 0 on every turn of the assistant"),
    ],
)
def test_a_weight_that_cannot_be_honoured_is_refused(convert, message, problem):
    with pytest.raises(RowProblem, match=f"^{problem}"):
        convert({"messages": [USER, message]})


def test_a_turn_of_the_user_is_not_learned_whatever_its_weight(convert):
    assert convert({"messages": [{**USER, "weight": 0}, FOUR]}) == Chat([USER, FOUR])
    with pytest.raises(RowProblem, match=r"messages\[0\].train: is True on a turn of the user"):
        convert({"messages": [{**USER, "train": True}, FOUR]})


def test_answers_are_judged_as_a_whole(convert):
    row = {"prompt": [USER], "chosen": [{**FOUR, "weight": 0}], "rejected": [FIVE]}

    with pytest.raises(RowProblem, match=r"^chosen: has a turn of weight 0"):
        convert(row, method="dpo")


TAGGED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PLAIN = TAGGED.replace("{% generation %}", "").replace("{% endgeneration %}", "")
IN_PARTS = TAGGED.replace(
    "{{ m.content }}<|im_end|>{% endgeneration %}",
    "{{ m.content }}{% endgeneration %}{% generation %}<|im_end|>{% endgeneration %}",
)


@pytest.mark.parametrize("template", [TAGGED, PLAIN, IN_PARTS])
@pytest.mark.parametrize("only", [True, False])
def test_muted_turns_have_no_labels(
    make_config, write_rows, build_tokenizer, tmp_path, template, only
):
    tokenizer = build_tokenizer(template=template)
    path = write_rows([{"messages": [USER, {**FIVE, "weight": 0}, USER, FOUR]}])

    config = make_config(path, assistant_only_loss=only)
    (row,) = prepare_datasets(config, tokenizer, tmp_path / "cache").train

    said = [t if label != -100 else -1 for t, label in zip(*row.values(), strict=True)]
    learnt = tokenizer.decode([t for t in said if t >= 0])
    asked = "<|im_start|>user\n2+2?<|im_end|><|im_start|>assistant\n"
    assert learnt == ("4<|im_end|>" if only else f"{asked}{asked}4<|im_end|>")


def test_what_nothing_reads_is_named_once_with_a_count(
    make_config, write_rows, build_tokenizer, tmp_path
):
    row = {"messages": [{**USER, "lang": "en"}, FOUR], "id": 1, "note": None}
    path = write_rows([row, {**row, "note": "x"}])

    report = inspect_dataset(make_config(path))
    facts = prepare_datasets(
        make_config(path), build_tokenizer(template=PLAIN), tmp_path / "cache"
    ).facts

    assert report.unread == {"id": 2, "note": 1}
    assert remarks(facts) == [
        "Not read by anything: lang (in messages) (2 rows), id (2 rows), note (1 row)."
    ]


def test_reward_functions_read_every_column(make_config, write_rows):
    config = make_config(
        write_rows([{"prompt": "a", "answer": "b"}]), method="grpo", reward_functions=["length"]
    )

    assert inspect_dataset(config).unread == {}


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": ""}]])
def test_a_system_message_without_a_word_is_none(convert, content):
    assert convert({"messages": [{**SYSTEM, "content": content}, USER, FOUR]}) == Chat([USER, FOUR])


def test_a_content_may_be_a_list_of_texts(convert):
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2?"}]

    assert convert({"messages": [{**USER, "content": parts}, FOUR]}) == Chat([USER, FOUR])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("User", "user"), ("human", "user"), ("developer", "system"), ("observation", "tool")],
)
def test_the_roles_of_other_data_are_known(convert, theirs, ours):
    row = {"messages": [{"role": theirs, "content": "x"}, USER, {"role": "Bot", "content": "4"}]}

    assert convert(row) == Chat([{"role": ours, "content": "x"}, USER, FOUR])


def test_a_role_of_ones_own_is_named_by_the_job(convert):
    row = {"messages": [{"role": "patient", "content": "2+2?"}, {"role": "Doctor", "content": "4"}]}

    assert convert(row, roles={"patient": "user", "doctor": "assistant"}) == Chat([USER, FOUR])
    with pytest.raises(RowProblem, match=r"is .patient.; use system, user.*dataset\.roles"):
        convert(row)


def test_a_template_that_refuses_a_system_message_says_where_to_put_it(
    make_config, write_rows, build_tokenizer, tmp_path
):
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('No system.') }}{% endif %}"
    path = write_rows([{"messages": [USER, FOUR], "system": "Be brief."}])

    with pytest.raises(DataError, match=r"No system\. Where .* into the first user's turn"):
        prepare_datasets(
            make_config(path), build_tokenizer(template=strict + PLAIN), tmp_path / "cache"
        )


@pytest.mark.parametrize(
    ("learn", "learned"),
    [("all", ["5", "6", "4"]), ("last", ["4"]), ("marked", ["6"])],
)
@pytest.mark.parametrize("template", [TAGGED, PLAIN])
def test_the_job_says_which_turns_are_learned(
    make_config, write_rows, build_tokenizer, tmp_path, template, learn, learned
):
    six = {"role": "assistant", "content": "6", "train": True}
    none = {"messages": [USER, FIVE]}
    path = write_rows([{"messages": [USER, FIVE, USER, six, USER, FOUR]}, none])
    tokenizer = build_tokenizer(template=template)

    data = prepare_datasets(make_config(path, learn=learn), tokenizer, tmp_path / "cache")

    said = [label for label in data.train[0]["labels"] if label != -100]
    assert tokenizer.decode(said) == "".join(f"{answer}<|im_end|>" for answer in learned)
    assert len(data.train) == (1 if learn == "marked" else 2)
    assert data.facts["why"] == ({"no turn that is to be learned": 1} if learn == "marked" else {})
