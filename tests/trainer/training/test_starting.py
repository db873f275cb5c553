"""A process that trains hides the packages that its job never uses, and those alone."""

import json
import sys

import pytest

from tests.trainer.jobs import TINY_LLAMA
from trainer.training.starting import start_lightly

ALL = {"bitsandbytes", "boto3", "mlflow", "wandb"}
PLAIN = {"model": str(TINY_LLAMA), "optim": "adamw_torch", "quantization": None, "report_to": []}


@pytest.fixture
def hidden(monkeypatch):
    """Return which packages are hidden from a job whose process imported none of them before."""

    def found(config) -> set[str]:
        for name in ALL:
            monkeypatch.delitem(sys.modules, name, raising=False)
        start_lightly(config)
        return {name for name in ALL if name in sys.modules}

    before = {name: sys.modules[name] for name in ALL if name in sys.modules}
    monkeypatch.setattr("trainer.training.starting.search_seldom", lambda: None)
    yield found
    for name in ALL:
        sys.modules.pop(name, None)
    sys.modules.update(before)


def test_a_plain_job_needs_none_of_them(hidden):
    assert hidden(PLAIN) == ALL


@pytest.mark.parametrize(
    "changes", [{"quantization": {"load_in_4bit": True}}, {"optim": "paged_adamw_8bit"}]
)
def test_few_bits_are_those_of_bitsandbytes(hidden, changes):
    assert hidden(PLAIN | changes) == ALL - {"bitsandbytes"}


@pytest.mark.parametrize("field", ["model", "reward_model"])
def test_a_model_may_have_few_bits_itself(hidden, tmp_path, field):
    quantised = {"quantization_config": {"quant_method": "bitsandbytes"}}
    (tmp_path / "config.json").write_text(json.dumps(quantised))

    assert hidden(PLAIN | {field: str(tmp_path)}) == ALL - {"bitsandbytes"}


@pytest.mark.parametrize("model", ["/not/there", "owner/not-here-yet", "no name: at all"])
def test_of_a_model_that_is_not_here_nobody_knows(hidden, model):
    assert hidden(PLAIN | {"model": model}) == ALL - {"bitsandbytes"}


def test_a_tracker_that_is_reported_to_is_there_and_keeps_its_files_where_it_likes(hidden):
    assert hidden(PLAIN | {"report_to": ["mlflow"]}) == {"bitsandbytes", "wandb"}


@pytest.mark.parametrize(
    "own",
    [
        {"callbacks": ["mine.py:Mine"]},
        {"formatting": "mine.py:mine"},
        {"reward_functions": ["length", "mine.py:mine"]},
        {"trust_remote_code": True},
    ],
)
def test_the_users_own_code_imports_what_it_likes(hidden, own):
    assert hidden(PLAIN | own) == set()


def test_what_is_no_config_hides_nothing(hidden):
    assert hidden(None) == set()
