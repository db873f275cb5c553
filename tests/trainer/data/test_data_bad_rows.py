"""Rows that cannot be used are refused, or skipped and told; formatting may leave rows out."""

import pytest

from trainer.contract.errors import DataError
from trainer.data import inspect_dataset
from trainer.data.tally import remarks, told, warning_about
from trainer.data.tokenization import prepare_datasets

USER, SAID = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
GOOD = {"messages": [USER, SAID]}
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    "{{ '<|im_start|>' + m.role + ': ' + m.content + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant: ' }}{% endif %}"
)
REFUSED = {"messages": [{"role": "system", "content": "x"}, USER, SAID]}


@pytest.fixture
def prepare(make_config, build_tokenizer, tmp_path):
    """Prepare a dataset with a template that takes no system message."""

    def prepare(dataset, **settings):
        tokenizer = build_tokenizer(template=STRICT)
        return prepare_datasets(make_config(dataset, **settings), tokenizer, tmp_path / "cache")

    return prepare


def test_bad_rows_are_skipped_and_told_where_the_job_says_so(prepare, make_config, write_rows):
    path = write_rows([GOOD, {"messages": [USER]}, REFUSED, GOOD])
    dataset = {"path": str(path), "on_bad_row": "skip"}

    data = prepare(dataset)

    assert len(data.train) == 2
    assert told(data.facts, 1024) == (
        "4 rows, format messages: 2 kept, 2 dropped (2: cannot be used); 2 to train on"
    )
    assert sorted(remarks(data.facts)) == [
        "Skipped train.jsonl:2: messages: has no assistant message; add the answer or remove the "
        "row.",
        "Skipped train.jsonl:3: the chat template of the tokenizer refuses this chat: No system.",
    ]
    report = inspect_dataset(make_config(dataset))
    assert (report.rows, report.bad_rows) == (4, 1)
    with pytest.raises(DataError, match=r"(?s)1 of 4 rows cannot be used.*on_bad_row: skip"):
        prepare(path)


@pytest.mark.parametrize(
    ("method", "good", "bad"),
    [
        (
            "dpo",
            {"prompt": [USER], "chosen": [SAID], "rejected": [{**SAID, "content": "5"}]},
            {"prompt": REFUSED["messages"][:2], "chosen": [SAID], "rejected": [{**SAID, "content": "5"}]},
        ),
        ("grpo", {"prompt": [USER], "n": 1}, {"prompt": REFUSED["messages"][:2], "m": "x"}),
    ],
)  # fmt: skip
def test_rows_that_the_template_refuses_are_skipped_with_every_method(
    prepare, write_rows, method, good, bad
):
    rewards = {"reward_functions": ["length"]} if method == "grpo" else {}
    dataset = {"path": str(write_rows([good, bad, good])), "on_bad_row": "skip"}

    data = prepare(dataset, method=method, **rewards)

    assert (len(data.train), data.facts["kept"], data.facts["bad"]) == (2, 2, 1)


def test_no_more_than_twenty_are_told_and_all_bad_is_refused(prepare, write_rows):
    many = write_rows([GOOD] + [{"messages": []}] * 15 + [REFUSED] * 15)
    none = write_rows([{"messages": []}] * 3, "none.jsonl")

    data = prepare({"path": str(many), "on_bad_row": "skip"})

    assert (data.facts["bad"], len(data.facts["problems"])) == (30, 20)
    with pytest.raises(DataError, match="3 of 3 rows cannot be used"):
        prepare({"path": str(none), "on_bad_row": "skip"})


def test_formatting_may_leave_rows_out(prepare, write_rows, tmp_path):
    path = write_rows([{"a": i} for i in range(10)])
    code = tmp_path / "fmt.py"
    code.write_text(
        "def fmt(row):\n"
        "    chat = [{'role': 'user', 'content': 'x'}, {'role': 'assistant', 'content': 'y'}]\n"
        "    return {'messages': chat} if row['a'] > 7 else None\n"
        "def none(row):\n    pass\n"
    )

    facts = prepare(path, formatting=f"{code}:fmt").facts

    assert told(facts, 1024) == (
        "10 rows, format messages: 2 kept, 8 dropped (8: left out by formatting); 2 to train on"
    )
    assert warning_about(facts, 1024) == ""
    with pytest.raises(DataError, match=r"formatting left out all 10 rows"):
        prepare(path, formatting=f"{code}:none")
