"""What is shown of a row is what the trainer makes of it."""

from __future__ import annotations

import json

import pytest

from trainer.config import TrainingConfig
from trainer.contract.errors import DataError
from trainer.data.picture import CUT, LEARNED, SEEN, first_row, pictures

pytestmark = pytest.mark.xdist_group("torch")
CHAT = {
    "messages": [
        {"role": "user", "content": "model data batch of the rank and a step"},
        {"role": "assistant", "content": "loss step token rank"},
    ]
}


@pytest.fixture
def shown(tmp_path, base_model):
    """Return a function that shows rows of a job."""
    from trainer.engine.model import load_tokenizer

    def show(rows, first=1, count=1, **settings):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = TrainingConfig(model=str(base_model), dataset={"path": str(path)}, **settings)
        return pictures(config, load_tokenizer(config), first, count)

    return show


def text_of(picture, kind, name=""):
    return "".join(part.text for part in picture.texts[name] if part.kind == kind)


def test_the_answer_is_learned_and_the_question_seen(shown):
    [picture] = shown([CHAT, CHAT])

    assert text_of(picture, LEARNED).startswith("loss step token rank")
    assert "model data" in text_of(picture, SEEN)
    assert picture.place.endswith("rows.jsonl:1")
    assert picture.counts()[CUT] == 0
    assert any(part.is_special for part in picture.texts[""])


def test_what_is_cut_is_shown_as_cut_and_a_row_of_which_nothing_is_left_says_so(shown):
    [whole] = shown([CHAT])
    asked = whole.counts()[SEEN]

    [cut] = shown([CHAT], max_length=asked + 2)
    [nothing] = shown([CHAT], max_length=asked)

    assert cut.counts() == {LEARNED: 2, SEEN: asked, CUT: whole.counts()[LEARNED] - 2}
    assert cut.dropped == ""
    assert nothing.dropped == "nothing to learn within max_length"
    assert nothing.counts()[LEARNED] == 0


def test_of_a_comparison_both_answers_are_shown(shown):
    rows = [{"prompt": "model", "chosen": " data", "rejected": " loss"}] * 3

    found = shown(rows, first=2, count=2, method="dpo")

    assert len(found) == 2
    assert found[0].place.endswith(":2")
    assert text_of(found[0], SEEN, "chosen") == text_of(found[0], SEEN, "rejected")
    assert text_of(found[0], LEARNED, "chosen").startswith(" data")
    assert text_of(found[0], LEARNED, "rejected").startswith(" loss")


def test_a_bad_row_is_named(shown):
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        shown([CHAT, {"messages": "none"}], count=2)


def test_the_first_row_of_a_run_fits_into_one_line(base_model):
    from trainer.engine.model import load_tokenizer

    tokenizer = load_tokenizer(TrainingConfig(model=str(base_model), dataset="d"))
    asked, said = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in ("model\n", "loss"))
    row = {"input_ids": asked + said, "labels": [-100] * len(asked) + said}

    assert first_row(tokenizer, row, 100) == "model\\n«loss»"
    assert first_row(tokenizer, {"prompt_ids": asked, "chosen_ids": said}, 8) == "model\\n…"
    assert first_row(tokenizer, {"prompt": "model\n"}, 100) == "model\\n"
    chat = [{"role": "user", "content": "model"}]
    assert first_row(tokenizer, {"prompt": chat}, 100).count("model") == 1
