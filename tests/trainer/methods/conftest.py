"""Jobs that learn from their own answers: prompts, and somebody who scores them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VOWELS = """\
def vowels(prompts, completions, **columns):
    texts = [answer[0]["content"] for answer in completions]
    return [10 * sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts]
"""


@pytest.fixture(scope="session")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions of different lengths."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    rows = [
        {
            "prompt": [{"role": "user", "content": "What is a model? " * (i % 3 + 1)}],
            "answer": "data",
        }
        for i in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def vowels(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A reward function that likes vowels."""
    path = tmp_path_factory.mktemp("code") / "rewards.py"
    path.write_text(VOWELS)
    return f"{path}:vowels"


@pytest.fixture(scope="session")
def make_online(make_job: Callable[..., Any], prompts: Path, vowels: str) -> Callable[..., Any]:
    """Return a maker of jobs that generate eight tokens at a time."""

    def make(root: Path, **settings: Any) -> Any:
        data = {"path": str(prompts), **settings.pop("data", {})}
        small = {
            "peft": {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1},
            "max_completion_length": 8,
            "max_length": 96,
            "learning_rate": 0.003,
            "reward_functions": [vowels],
        }
        return make_job(root, **{**small, "data": data, **settings})

    return make
