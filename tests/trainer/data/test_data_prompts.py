"""Prompts keep every column for the reward functions, and only those that leave room are kept."""

import pytest

from trainer.contract.errors import DataError
from trainer.data.encoding import BATCH_ROWS
from trainer.data.tokenization import prepare_datasets

TEMPLATE = "{% for m in messages %}{{ m.role + ': ' + m.content }}{% endfor %}"


@pytest.fixture
def prepare(make_config, build_tokenizer, write_rows, tmp_path):
    """Prepare prompts."""

    def prepare(rows, **settings):
        settings = {"method": "grpo", "reward_functions": ["length"], **settings}
        config = make_config(write_rows(rows), **settings)
        return prepare_datasets(config, build_tokenizer(template=TEMPLATE), tmp_path / "cache")

    return prepare


def test_a_column_that_the_first_row_lacks_is_none_there(prepare):
    data = prepare(
        [{"prompt": "a"}, {"prompt": "b", "answer": "1", "n": 1}, {"prompt": "c", "n": 0.5}]
    )

    assert data.train[:] == {
        "prompt": ["a", "b", "c"],
        "answer": [None, "1", None],
        "n": [None, 1.0, 0.5],
    }


def test_a_column_may_first_come_many_rows_later(prepare):
    rows = [{"prompt": "a", "n": None}] * BATCH_ROWS + [{"prompt": "b", "n": 1, "tests": ["x"]}]

    last = prepare(rows).train[BATCH_ROWS - 1 :]

    assert last == {"prompt": ["a", "b"], "n": [None, 1], "tests": [None, ["x"]]}


def test_a_column_of_two_kinds_is_refused(prepare):
    rows = [{"prompt": "a", "n": "x"}] * BATCH_ROWS + [{"prompt": "b", "n": ["x"]}]

    with pytest.raises(
        DataError, match=f"train.jsonl:{BATCH_ROWS + 1} and the rows after it are not"
    ):
        prepare(rows)


def test_prompts_that_leave_no_room_are_dropped_and_counted(prepare):
    chat = [{"role": "user", "content": "x" * 30}]

    data = prepare(
        [{"prompt": chat}, {"prompt": [{**chat[0], "content": "x"}]}],
        max_length=24,
        max_completion_length=8,
    )

    assert len(data.train) == 1
    assert data.facts["why"] == {"the prompt leaves no room for an answer within max_length": 1}


def test_when_no_prompt_is_left_the_remedy_is_named(prepare):
    with pytest.raises(DataError, match=r"none of 1 rows.*\(1: the prompt leaves no room"):
        prepare([{"prompt": "x" * 30}], max_length=24, max_completion_length=8)


def test_what_a_prompt_says_beside_its_words_is_named(prepare):
    asked = [{"role": "user", "content": "x", "name": "Ann"}]

    data = prepare([{"prompt": asked}] * 2)

    assert data.train[0] == {"prompt": [{"role": "user", "content": "x"}]}
    assert data.facts["unread"] == {"name (in messages)": 2}


@pytest.mark.parametrize("name", ["completion", "completions", "prompts", "log_metric"])
def test_a_column_that_would_not_get_to_reward_functions_is_refused(prepare, name):
    with pytest.raises(DataError, match=f"train.jsonl:2: {name}: is a name by which reward func"):
        prepare([{"prompt": "a"}, {"prompt": "b", name: "1"}])
