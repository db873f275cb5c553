"""Reward functions of the user's own: loaded by path, and never trusted to return sense."""

import re
from pathlib import Path

import pytest

from trainer.config import TrainingConfig
from trainer.config.code_references import check_code
from trainer.contract.errors import CodeError, ConfigError
from trainer.rewards.assembly import rewards_of as rewards_with
from trainer.rewards.counts import Counts


def rewards_of(config, columns, device):
    return rewards_with(config, columns, device, cache=Path(), counts=Counts())


def config(*functions, **settings):
    return TrainingConfig.model_validate(
        {
            "model": "m",
            "dataset": "d",
            "method": "grpo",
            "reward_functions": list(functions),
            **settings,
        }
    )


def own(path, body):
    path.write_text(f"def mine(completions, answer):\n    {body}\n")
    (reward,) = rewards_of(config(f"{path}:mine"), ["answer"], "cpu")
    return reward(prompts=["?", "?"], completions=["a", "bb"], answer=["x", "y"], other=[1, 2])


def test_a_function_gets_the_columns_that_it_takes(tmp_path):
    assert own(tmp_path / "r.py", "return [len(c) for c in completions]") == [1.0, 2.0]


def test_a_function_may_have_nothing_to_say_of_an_answer(tmp_path):
    assert own(tmp_path / "r.py", "return [1, None]") == [1.0, None]


def test_a_function_may_wait_for_others(tmp_path):
    path = tmp_path / "r.py"
    path.write_text(
        "import asyncio\n"
        "async def score(text):\n    await asyncio.sleep(0)\n    return len(text)\n"
        "async def mine(completions, answer):\n"
        "    return await asyncio.gather(*map(score, completions))\n"
    )
    (reward,) = rewards_of(config(f"{path}:mine"), ["answer"], "cpu")

    assert reward(completions=["a", "bb"], answer=["x", "y"]) == [1.0, 2.0]
    other = tmp_path / "other.py"
    other.write_text("async def mine(completions):\n    raise KeyError('nothing')\n")
    (reward,) = rewards_of(config(f"{other}:mine"), ["answer"], "cpu")
    with pytest.raises(CodeError, match=r"line 2, in mine: KeyError"):
        reward(completions=["a"])


@pytest.mark.parametrize("name", ["exact_match", "contains_answer"])
def test_a_row_without_an_answer_is_not_scored_by_it(name):
    (reward,) = rewards_of(config(name), ["answer"], "cpu")

    assert reward(completions=["None", "4"], answer=[None, "4"]) == [None, 1.0]


def test_an_error_names_file_line_and_function(tmp_path):
    path = tmp_path / "r.py"

    with pytest.raises(CodeError, match=rf"{path}, line 2, in mine: KeyError: 'nothing'\."):
        own(path, "return {}['nothing']")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return [1]", "1 rewards for 2 completions"),
        ("return [1, 'x']", "'x' as reward 2"),
        ("return [float('nan'), 1]", "nan as reward 1"),
        ("return 5", "a int instead of a list"),
        ("pass", "a NoneType instead of a list"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(tmp_path, body, problem):
    with pytest.raises(CodeError, match=f"returned {problem}"):
        own(tmp_path / "r.py", body)


def test_a_named_function_needs_its_column():
    with pytest.raises(ConfigError, match="exact_match compares with the column 'answer'"):
        rewards_of(config("exact_match"), ["prompt"], "cpu")


def test_files_are_checked_without_being_run(tmp_path):
    path = tmp_path / "r.py"
    path.write_text(f"open({str(tmp_path / 'proof')!r}, 'w')\ndef short(completions): ...\n")

    check_code(config(f"{path}:short"))
    with pytest.raises(ConfigError, match=r"has no 'shirt'.*Did you mean short"):
        check_code(config(f"{path}:shirt"))

    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("no.py:f", "No such file"),
        ("r.py", "not written as"),
        ("r.py:f", "line 1: this is not valid Py"),
    ],
)
def test_a_wrong_reference_is_told_with_its_field(tmp_path, text, problem):
    (tmp_path / "r.py").write_text("def f(:\n")

    with pytest.raises(ConfigError, match=rf"training\.callbacks: .*{problem}"):
        check_code(config("length", callbacks=[str(tmp_path / text)]))


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"reward_functions": []}, "set reward_functions"),
        ({"reward_sandbox": {}}, "reward_sandbox is for reward functions of your own"),
        ({"method": "sft", "reward_functions": [], "reward_judge": {"model": "j"}}, "not apply"),
        ({"reward_functions": ["exact_mach"]}, "did you mean exact_match"),
        ({"num_generations": 3}, "multiple of num_generations = 3"),
        ({"num_generations": 1}, "greater than or equal to 2"),
        ({"max_length": 256}, "leaves no room for a prompt"),
        ({"method": "ppo", "num_generations": 4}, "does not apply to method ppo"),
        ({"method": "sft"}, "reward_functions does not apply to method sft"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, problem):
    with pytest.raises(ValueError, match=problem):
        config(**{"reward_functions": ["length"], **settings})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"reward_judge": {"model": "m", "template": "{completion} {facts}"}},
            r"reward_judge\.template names \{facts\}, and the dataset has answer, prompt",
        ),
        ({"reward_functions": ["exact_match"]}, None),
        (
            {"reward_functions": ["exact_match"], "dataset": "other.jsonl"},
            "exact_match compares with the column 'answer', and the dataset has prompt",
        ),
    ],
)
def test_a_column_that_no_row_has_is_named_before_anything_is_loaded(
    write_rows, make_config, settings, words
):
    from trainer.preflight.table import Needs, Subject, walk
    from trainer.preflight.training import TRAINING

    rows = [{"prompt": "a"}, {"prompt": "b", "answer": "c"}]
    path = write_rows(rows if "dataset" not in settings else rows[:1])
    config = make_config(
        path, method="grpo", **{k: v for k, v in settings.items() if k != "dataset"}
    )
    checks = [check for check in TRAINING if check.name == "dataset"]

    [result] = walk(checks, Subject(config), {Needs.ROWS})

    assert (result.error is None) == (words is None)
    if words:
        assert re.search(words, result.error.message)
