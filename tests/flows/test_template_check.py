"""What a model's chat template refuses or leaves out is found before anything starts."""

import json
from pathlib import Path

import pytest

from flows import preflight
from trainer.config import TrainingJob
from trainer.contract.errors import DataError
from trainer.preflight.table import Needs, Subject, walk

MODEL = Path(__file__).parents[2] / "examples" / "tiny-llama"
ASK, SAY = {"role": "user", "content": "Tide?"}, {"role": "assistant", "content": "At two."}
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Brest"}}}
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}


@pytest.fixture
def look(tmp_path):
    """Return a function: rows, and further settings → what the check makes of them."""

    def look(*rows, **dataset):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        training = {"model": str(MODEL), "dataset": {"path": str(path), **dataset}}
        job = TrainingJob.model_validate({"name": "a", "training": training})
        subject = Subject(job.training, job)
        return list(walk([preflight.TEMPLATE], subject, {Needs.ROWS}))

    return look


@pytest.mark.thorough
def test_what_would_be_lost_is_refused_before_the_start(look):
    [result] = look({"messages": [ASK, SAY]}, {"messages": [ASK, CALLS, SAY]})

    assert isinstance(result.error, DataError)
    assert "rows.jsonl:2: the chat template of" in result.error.message
    assert "leaves out the tool calls of message 2" in result.error.message


@pytest.mark.thorough
def test_rows_with_more_than_two_speakers_are_rendered(look):
    [result] = look({"messages": [{"role": "system", "content": "Be brief."}, ASK, SAY]})

    assert result.found.text == "shows everything that 1 rows with more than two speakers hold"


def test_no_process_is_started_for_two_speakers_in_turns(look, monkeypatch):
    monkeypatch.setattr(preflight, "ask_trainer", lambda *_: pytest.fail("it asked"))

    [result] = look({"messages": [ASK, SAY]})

    assert result.found.text == "two speakers in turns, which every chat template takes"


def test_a_bad_row_is_named_once(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": []}\n')
    training = {"model": str(MODEL), "dataset": {"path": str(path)}}
    job = TrainingJob.model_validate({"name": "a", "training": training})

    results = walk(preflight.PREFLIGHT, Subject(job.training, job), {Needs.ROWS})

    assert [result.name for result in results if result.error] == ["dataset"]


def test_nothing_is_refused_that_is_to_be_skipped(look):
    assert look({"messages": [ASK, CALLS, SAY]}, on_bad_row="skip") == []
