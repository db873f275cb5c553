"""The reward functions that have names."""

import pytest

from trainer.config.rewards import BUILTIN_REWARDS
from trainer.rewards.builtin import FUNCTIONS


def reward(name, text, **columns):
    said = [text, [{"role": "assistant", "content": text}]]
    both = FUNCTIONS[name](
        prompts=["?", "?"], completions=said, **{k: [v, v] for k, v in columns.items()}
    )
    assert both[0] == both[1], "a text and messages differ"
    return both[0]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_rewards(name):
    assert FUNCTIONS[name].__doc__.startswith("Return 1")


@pytest.mark.parametrize(
    ("said", "expected"),
    [("42", 1), (" 42.\n", 1), ("<think>6 × 7</think><answer>42</answer>", 1), ("It is 42", 0)],
)
def test_exact_match_wants_the_answer_alone(said, expected):
    assert reward("exact_match", said, answer=42) == expected


def test_contains_answer_wants_whole_words():
    assert reward("contains_answer", "It is Paris.", answer="paris") == 1
    assert reward("contains_answer", "Parisian", answer="Paris") == 0


def test_length_falls_beyond_its_target():
    answers = ["a" * 10, "a" * 15, "a" * 20, "a" * 90]

    assert [reward("length", a, target_length=10) for a in answers] == [1, 0.5, 0, -1]


def test_format_wants_tags_or_the_columns_pattern():
    assert reward("format", "<think>so</think>\n<answer>42</answer>") == 1
    assert reward("format", "42") == 0
    assert reward("format", "42", pattern=r"\d+") == 1


def test_json_wants_an_object_or_a_list():
    assert [reward("json", text) for text in ('{"a": [1]}', "[]", "42", "{")] == [1, 1, 0, 0]


def test_the_jobs_know_every_function_and_no_other():
    assert FUNCTIONS.keys() == BUILTIN_REWARDS.keys()
