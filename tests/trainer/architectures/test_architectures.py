"""What docs/models.md says of every architecture is so, and nothing ends in an error of others."""

import pytest

from tests.trainer.architectures.sweep import (
    MARK,
    PAGE,
    UNEXPLAINED,
    Outcome,
    cell,
    kinds,
    outcomes,
    warm_up,
)

pytestmark = pytest.mark.xdist_group("torch")
BY_DOCUMENT, PADDED = "ok: by document", "slower path: padded"
LOGITS = f"{PADDED} (loss from the logits)"
BY_LOGITS = "slower path: by document (loss from the logits)"
HANDFUL = {
    "llama": (BY_DOCUMENT, BY_DOCUMENT),
    "mixtral": (BY_DOCUMENT, BY_DOCUMENT),  # routers that are balanced over all tokens of a batch
    "qwen3_moe": (BY_DOCUMENT, BY_DOCUMENT),
    "nemotron": (PADDED, PADDED),  # does not pass on what attention needs
    "phimoe": (PADDED, LOGITS),  # a window that only the mask knows; routers among targets
    "doge": (BY_DOCUMENT, BY_LOGITS),
    "roberta": (PADDED, LOGITS),  # positions that are made of the tokens; layers in its head
    "mamba": (PADDED, PADDED),  # a state; layers that carry no adapter
    "gemma3_text": (BY_DOCUMENT, BY_DOCUMENT),
    "bart": (LOGITS, PADDED),
}


def table() -> dict[str, list[str]]:
    _, _, below = PAGE.read_text().partition(MARK)
    rows = [line.strip("| ").split(" | ") for line in below.splitlines() if line.startswith("| ")]
    return {kind: cells for kind, *cells in rows[2:]}


TABLE = table()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", HANDFUL)
def test_a_handful_learns_what_plain_transformers_computes(kind):
    warm_up()
    found = outcomes(kind)

    assert tuple(map(cell, found.values())) == HANDFUL[kind]


def test_every_architecture_is_in_the_table_and_explained():
    assert list(TABLE) == kinds()
    assert [kind for kind, cells in TABLE.items() if UNEXPLAINED in " ".join(cells)] == []


@pytest.mark.thorough
@pytest.mark.parametrize("kind", TABLE)
def test_an_architecture_is_as_the_table_has_it(kind):
    warm_up()

    assert [cell(outcome) for outcome in outcomes(kind).values()] == TABLE[kind]


def test_a_process_that_is_killed_is_not_taken_for_an_answer(monkeypatch):
    import os
    import signal

    from tests.trainer.architectures import sweep

    monkeypatch.setattr(sweep, "_trained", lambda _: os.kill(os.getpid(), signal.SIGKILL))

    killed = Outcome(UNEXPLAINED, "its process ended: SIGKILL")
    assert outcomes("llama") == {"sft": killed, "dpo": killed}
