"""Tool calls and thoughts: in every spelling the same, and never lost by a template in silence."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainer.contract.errors import DataError
from trainer.data.problems import RowProblem
from trainer.data.tally import remarks
from trainer.data.tokenization import prepare_datasets
from trainer.data.turns import chat_of

ASK = {"role": "user", "content": "When is high tide in Brest?"}
ARGUMENTS = {"port": "Brest", "days": 1}
FUNCTION = {"name": "tide", "arguments": ARGUMENTS}
CALL = {"type": "function", "function": FUNCTION}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
TOLD = {"role": "tool", "content": "14:05"}
ANSWER = {"role": "assistant", "content": "At two."}
CHAT = [ASK, CALLS, TOLD, ANSWER]
TOOLS = [{"type": "function", "function": {"name": "tide", "parameters": {"type": "object"}}}]

TURNS = (
    "{%% for m in messages %%}{{ '<|im_start|>' + m.role + '\\n' }}{{ m.content }}"
    "{%% if m.tool_calls %%}{%% for c in m.tool_calls %%}%s{%% endfor %%}{%% endif %%}"
    "{{ '<|im_end|>' }}{%% endfor %%}"
    "{%% if add_generation_prompt %%}{{ '<|im_start|>assistant\\n' }}{%% endif %%}"
)
SHOWN = "{% if tools %}{{ tools | tojson }}{% endif %}"
AS_OBJECT = SHOWN + TURNS % "{{ c.function.name }}({{ c.function.arguments | tojson }})"
# As DeepSeek's does: only a text can be put together with a text.
AS_TEXT = SHOWN + TURNS % "{{ c.function.name + '(' + c.function.arguments + ')' }}"
# A template may be written for texts and take anything.
AS_ANYTHING = SHOWN + TURNS % "{{ c.function.name }}({{ c.function.arguments }})"
SILENT = TURNS % ""
DEAF = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture
def prepare(make_config, build_tokenizer, write_rows, tmp_path):
    """Prepare rows, or a file, with a template; return the tokenizer and the data."""

    def prepare(rows, template, method="sft"):
        tokenizer = build_tokenizer(template=template)
        path = write_rows(rows) if isinstance(rows, list) else rows
        rewards = {"reward_functions": ["length"]} if method == "grpo" else {}
        config = make_config(path, method=method, **rewards)
        return tokenizer, prepare_datasets(config, tokenizer, tmp_path / "cache")

    return prepare


def learnt(tokenizer, row):
    return tokenizer.decode([label for label in row["labels"] if label != -100])


@pytest.mark.parametrize(
    "calls",
    [
        {"tool_calls": [CALL]},
        {"tool_calls": [FUNCTION]},
        {"tool_calls": [{**CALL, "function": {**FUNCTION, "arguments": json.dumps(ARGUMENTS)}}]},
        {"tool_calls": json.dumps([CALL])},
        {"function_call": {**FUNCTION, "arguments": json.dumps(ARGUMENTS)}},
    ],
    ids=["whole", "bare", "arguments as text", "all as text", "OpenAI's first"],
)
@pytest.mark.parametrize("content", [None, ""])
def test_a_call_is_the_same_in_every_spelling(calls, content):
    turns = [ASK, {"role": "assistant", "content": content, **calls}, TOLD, ANSWER]

    assert chat_of(turns, "messages") == CHAT


def test_a_call_may_be_a_turn_of_its_own():
    turns = [
        {"from": "human", "value": ASK["content"]},
        {"from": "function_call", "value": json.dumps(FUNCTION)},
        {"from": "observation", "value": "14:05"},
        {"from": "gpt", "value": "At two."},
    ]

    assert chat_of(turns, "conversations") == CHAT


@pytest.mark.parametrize(
    ("calls", "problem"),
    [
        ([{"function": {"name": "a", "arguments": "{port"}}], r"m\[0\].tool_calls\[0\].function.arguments: is a text that is not JSON"),
        ([{"function": {"name": "a", "arguments": "[1]"}}], r"m\[0\].tool_calls\[0\].function.arguments: is a list; give an object"),
        ([{"arguments": {}}], r"m\[0\].tool_calls\[0\]: names no function"),
        ("look", r"m\[0\].tool_calls: is a text that is not JSON"),
        ([{"name": "a", "arguments": '{"port": "Brest", "port": "Roscoff"}'}], r'm\[0\].tool_calls\[0\].arguments: is JSON that cannot be read: "port" is there twice in one object; say each'),
    ],
)  # fmt: skip
def test_what_is_no_call_is_refused(calls, problem):
    with pytest.raises(RowProblem, match=f"^{problem}"):
        chat_of([{"role": "assistant", "content": None, "tool_calls": calls}], "m")


def test_a_table_teaches_the_same_calls_as_lines_of_json(prepare, tmp_path):
    other = {"name": "moon", "arguments": {"day": "today", "where": {"sea": "north"}}}
    rows = [
        {
            "messages": [ASK, {**CALLS, "tool_calls": [{"type": "function", "function": f}]}],
            "tools": TOOLS,
        }
        for f in (FUNCTION, other)
    ]
    rows[1]["tools"] = [{"type": "function", "function": {"name": "moon", "strict": True}}]
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)

    tokenizer, lines = prepare(rows, AS_OBJECT)
    _, from_table = prepare(table, AS_OBJECT)

    assert from_table.train[:] == lines.train[:]
    assert learnt(tokenizer, lines.train[0]) == 'tide({"port": "Brest", "days": 1})<|im_end|>'
    assert "null" not in tokenizer.decode(from_table.train[1]["input_ids"])


@pytest.mark.parametrize("template", [AS_OBJECT, AS_TEXT, AS_ANYTHING])
def test_templates_get_arguments_as_they_read_them(prepare, template):
    tokenizer, data = prepare([{"messages": CHAT, "tools": TOOLS}], template)

    text = tokenizer.decode(data.train[0]["input_ids"])
    assert text.startswith('[{"type": "function"')
    assert learnt(tokenizer, data.train[0]) == (
        'tide({"port": "Brest", "days": 1})<|im_end|>At two.<|im_end|>'
    )


def test_an_answer_may_have_text_beside_its_call(prepare):
    chosen = [{**CALLS, "content": "Let me look."}]
    rows = [{"prompt": [ASK], "chosen": chosen, "rejected": [ANSWER], "tools": TOOLS}]

    tokenizer, data = prepare(rows, AS_OBJECT, "dpo")

    assert tokenizer.decode(data.train[0]["chosen_ids"]) == (
        'Let me look.tide({"port": "Brest", "days": 1})<|im_end|>'
    )
    assert tokenizer.decode(data.train[0]["prompt_ids"]).startswith('[{"type": "function"')


def test_calls_are_refused_in_prompts(prepare):
    with pytest.raises(DataError, match=r"prompt\[1\]: calls tools"):
        prepare([{"prompt": CHAT[:3]}], AS_OBJECT, "grpo")


@pytest.mark.parametrize(
    ("row", "template", "what"),
    [
        ({"messages": CHAT}, SILENT, r"the tool calls of message 2 \(assistant\)"),
        ({"messages": CHAT}, DEAF, r"the tool calls of message 2 \(assistant\)"),
        ({"messages": CHAT, "tools": TOOLS}, TURNS % "{{ c | tojson }}", "the tools: 'tide'"),
        (
            {"messages": [ASK, {**ANSWER, "reasoning_content": "Hm."}]},
            DEAF,
            "the thoughts of message 2",
        ),
        (
            {"messages": [ASK, {**ANSWER, "content": "<think>Hm.</think>At two."}]},
            DEAF.replace("m.content", "m.content.split('</think>')[-1]"),
            "the thoughts of message 2",
        ),
        (
            {"messages": [{"role": "system", "content": "Be brief."}, ASK, ANSWER]},
            "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + DEAF,
            r"the content of message 1 \(system\): 'Be brief.'",
        ),
    ],
)
@pytest.mark.parametrize("method", ["sft", "kto"])
def test_what_a_template_leaves_out_is_refused_by_name(prepare, row, template, what, method):
    if method == "kto":
        *prompt, answer = row.pop("messages")
        row = {**row, "prompt": prompt, "completion": [answer], "label": True}

    with pytest.raises(DataError, match=f"train.jsonl:1: the chat template .* leaves out {what}"):
        prepare([row, {**row, "label": False}] if method == "kto" else [row], template, method)


@pytest.mark.parametrize("known", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize("given", ["reasoning_content", "reasoning", "thinking", "a part", "parts"])
def test_thoughts_are_given_by_the_name_that_the_template_knows(prepare, known, given):
    template = DEAF.replace(
        "m.content", f"('[' + m.{known} + ']' if m.{known} else '') + m.content"
    )
    thoughts = {given: "Hm."}
    if given in {"a part", "parts"}:
        said = "Hm." if given == "a part" else [{"type": "text", "text": "Hm."}]
        parts = [{"type": "thinking", "thinking": said}, {"type": "text", "text": "At two."}]
        thoughts = {"content": parts}

    tokenizer, data = prepare([{"messages": [ASK, {**ANSWER, **thoughts}]}], template)

    assert learnt(tokenizer, data.train[0]) == "[Hm.]At two.<|im_end|>"


def test_thoughts_that_a_template_shows_of_the_last_turn_alone_are_counted(prepare):
    template = DEAF.replace(
        "m.content", "(m.content if loop.last else m.content.split('</think>')[-1])"
    )
    thinks = {**ANSWER, "content": "<think>Hm.</think>At two."}

    tokenizer, data = prepare(
        [{"messages": [ASK, {**thinks, "content": "<think>First.</think>At one."}, ASK, thinks]}],
        template,
    )

    assert (
        learnt(tokenizer, data.train[0]) == "At one.<|im_end|><think>Hm.</think>At two.<|im_end|>"
    )
    assert remarks(data.facts) == [
        "1 earlier turns are shown without their thoughts, as the chat template does it."
    ]
